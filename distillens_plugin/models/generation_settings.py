"""A published generation_config.json, changed so that it can be saved again."""

from transformers import GenerationConfig

# The validity of others depends on these, so they come first.
_SWITCHES = (
    "do_sample",
    "num_beams",
    "return_dict_in_generate",
    "use_cache",
    "cache_implementation",
    "num_return_sequences",
)


def valid_settings(settings: GenerationConfig) -> tuple[GenerationConfig, list[str]]:
    """The settings without those that transformers refuses to save, and the names of the latter.

    Published files often have a temperature without do_sample. generate ignores it, but saving is
    strict once a setting (the padding token) has changed. The settings left out had no effect.
    """
    if _is_valid(settings):
        return settings, []
    kept, dropped = GenerationConfig(), []
    given = {name: value for name, value in vars(settings).items() if value is not None}
    for name in [name for name in _SWITCHES if name in given] + sorted(set(given) - set(_SWITCHES)):
        setattr(kept, name, given[name])
        if not _is_valid(kept):
            setattr(kept, name, None)
            dropped.append(name)
    return kept, dropped


def _is_valid(settings: GenerationConfig) -> bool:
    try:
        settings.validate(strict=True)
    except Exception:  # ValueError, or what a value of a foreign type raises
        return False
    return True
