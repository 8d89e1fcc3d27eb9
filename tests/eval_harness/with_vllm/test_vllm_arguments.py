"""--model_args that are passed on to vLLM."""

import pytest

from eval_harness.errors import DistillensError

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("usable_vllm")]


def test_engine_arguments_are_passed_on_as_they_are():
    from eval_harness.backends.vllm_arguments import checked_arguments

    given = {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "batch_size": 7}
    assert checked_arguments(given) == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "max_num_seqs": 7,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tensor_paralel_size": 2}, "--model vllm does not know it.*'tensor_parallel_size'"),
        ({"device": "cpu"}, "--model_args device: --model vllm does not know it"),
        ({"max_model_len": 2}, "--model_args max_model_len: give max_length instead"),
        ({"seed": 2}, "give --seed instead"),
        (
            {"tensor_parallel_size": 0},
            "tensor_parallel_size = 0, expected an integer of at least 1",
        ),
        ({"batch_size": "auto4"}, "max_num_seqs = 'auto4'"),
    ],
)
def test_wrong_arguments_are_refused(given, message):
    from eval_harness.backends.vllm_arguments import checked_arguments

    with pytest.raises(DistillensError, match=message):
        checked_arguments(given)
