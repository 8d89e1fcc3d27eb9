"""Which form results and samples files have."""

# The version of lm-eval whose files have the same form.
LM_EVAL_VERSION = "0.4.13"
# In the first form, scores of rows were fractions in [0, 1].
RESULTS_FORMAT = 2
