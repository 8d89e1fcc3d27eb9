"""The names that torchdistill's registries hold, listed so that a recipe is checked without torch.

tests/recipe/test_tables.py compares the lists with the registries of the installed versions.
torchdistill fills some registries with everything in a module of torch; names there that make
nothing, or nothing that a recipe can use, are listed separately.
"""

# fmt: off
OPTIMIZERS = (
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam",
    "RMSprop", "Rprop", "SGD",
)
# LBFGS must be called with a closure, which a box does not do. SparseAdam refuses dense gradients,
# and language models have no others.
NO_OPTIMIZERS = ("LBFGS", "Optimizer", "SparseAdam")

SCHEDULERS = (
    "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
    "StepLR", "poly_lr_scheduler",
)
# Those made of other schedulers, and the one that must be stepped with a metric.
NO_SCHEDULERS = (
    "ChainedScheduler", "LRScheduler", "ReduceLROnPlateau", "SequentialLR", "_LRScheduler",
    "Any", "Counter", "Optimizer", "SupportsFloat", "Tensor", "_SchedulePhase",
    "_enable_get_lr_call", "_initial_mode", "partial", "ref",
)

FORWARD_PROCS = (
    "forward_all", "forward_batch4sskd", "forward_batch_only", "forward_batch_only_as_kwargs",
    "forward_batch_supp_dict", "forward_batch_target",
)
MODEL_LOSS_FUNCTIONS = ("extract_model_loss_dict",)
COLLATE_FUNCTIONS: tuple[str, ...] = ()
BATCH_SAMPLERS = ("BatchSampler",)
# They give rows, not batches.
NO_BATCH_SAMPLERS = (
    "RandomSampler", "Sampler", "SequentialSampler", "SubsetRandomSampler", "WeightedRandomSampler",
    "Generic", "Iterable", "Iterator", "Sequence", "Sized", "TypeVar",
)
# Of torch.utils.data, for `!import_get`.
SAMPLER_MODULES = (
    "torch.utils.data", "torch.utils.data.sampler", "torch.utils.data.distributed",
)
SAMPLERS = (
    "BatchSampler", "DistributedSampler", "RandomSampler", "Sampler", "SequentialSampler",
    "SubsetRandomSampler", "WeightedRandomSampler",
)

HIGH_LEVEL_LOSSES = ("WeightedSumLoss",)
LOSS_WRAPPERS = ("DictLossWrapper", "SimpleLossWrapper")
MID_LEVEL_LOSSES = (
    "ATLoss", "AffinityLoss", "AltActTransferLoss", "AuxSSKDLoss", "CCKDLoss", "CRDLoss",
    "ChSimLoss", "DISTLoss", "DISTPlusLoss", "FSPLoss", "FTLoss", "HierarchicalContextLoss",
    "KDLoss", "KTALoss", "LogitStdKDLoss", "PADL2Loss", "PKTLoss", "RKDLoss", "RegularizationLoss",
    "SKDDirectionLoss", "SKDInstanceLoss", "SPKDLoss", "SRDLoss", "SSKDLoss", "VIDLoss",
)
# torch's own, which need a wrapper (criterion_wrapper) that picks their inputs.
LOW_LEVEL_LOSSES = (
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss",
    "GaussianNLLLoss", "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss",
    "LinearCrossEntropyLoss", "MSELoss", "MarginRankingLoss", "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss", "MultiMarginLoss", "NLLLoss", "NLLLoss2d", "PoissonNLLLoss",
    "SmoothL1Loss", "SoftMarginLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss",
)
NO_LOSSES = (
    "Callable", "Linear", "LinearCrossEntropyOptions", "Module", "PairwiseDistance", "Tensor",
    "_Loss", "_WeightedLoss", "deprecated",
)
# fmt: on
