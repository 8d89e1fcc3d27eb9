"""Generation between training steps leaves nothing behind."""

import gc

import torch
from pair import batch, pair, run_both

from distillens_plugin import AttachedLens


def num_tensors():
    gc.collect()
    # Not isinstance: it would wake lazy modules that other libraries leave in memory.
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_a_thousand_cached_forwards_keep_nothing_alive():
    student, teacher = pair(dtype=torch.float32)
    lens = AttachedLens(student.eval(), teacher, {"auto": 2})
    counts = []
    with torch.no_grad():
        for _ in range(2):
            for _ in range(20):
                cache = student(input_ids=batch()[0], use_cache=True).past_key_values
                for token in range(25):
                    student(input_ids=torch.tensor([[token]] * 3), past_key_values=cache)
            del cache
            # What an ordinary forward leaves is one record, however many there were.
            counts.append(num_tensors())
    assert counts[0] == counts[1]
    lens.remove()


def test_a_sampled_answer_between_forward_and_loss_changes_nothing():
    student, teacher = pair(dtype=torch.float32)
    ids, labels = batch()
    lens = AttachedLens(student, teacher, {"auto": 2}, kd="fkl")
    run_both(student, teacher, ids)
    expected = lens.loss(labels)
    run_both(student, teacher, ids)
    before = num_tensors()
    for model in (student, teacher):
        answers = model.generate(ids[:, :4], max_new_tokens=5, do_sample=True)
        assert answers.shape == (3, 9)
        del answers
    assert num_tensors() == before
    assert lens.loss(labels) == expected


def test_a_loss_frees_what_the_forwards_left():
    student, teacher = pair(dtype=torch.float32)
    ids, labels = batch()
    lens = AttachedLens(student, teacher, {"auto": 2}, kd="fkl")
    run_both(student, teacher, ids)
    lens.loss(labels).backward()
    student.zero_grad()
    before = num_tensors()
    for _ in range(3):
        run_both(student, teacher, ids)
        lens.loss(labels).backward()
        student.zero_grad()
    assert num_tensors() == before
