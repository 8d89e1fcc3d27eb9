"""What differs between two sets of settings, key by key."""

import json


def differences(ours: object, theirs: object, path: str = "") -> list[tuple[str, str, str]]:
    """(dotted key, our value, their value) of every setting that differs between two dicts."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = list(ours) + [key for key in theirs if key not in ours]
        return [
            difference
            for key in keys
            for difference in differences(
                ours.get(key, "not set"),
                theirs.get(key, "not set"),
                f"{path}.{key}" if path else str(key),
            )
        ]
    return [] if ours == theirs else [(path, _shown(ours), _shown(theirs))]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
