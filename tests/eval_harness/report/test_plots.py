"""The plots are drawn whatever the names and numbers are."""

import io
import struct

import numpy as np
import pytest

from eval_harness.report.plots import plot_length, plot_scores

NAMES = [r"$\frac$ unbalanced", "a_b^c $", "模型", "\\", "", "e", "f", "g", "h"]


def pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(png))


def test_names_are_text_not_mathematics():
    count = len(NAMES)
    intervals = [(0.0, 9.0)] * count
    figure = plot_scores("s", r"$\bad", NAMES, [float(i) for i in range(count)], intervals)
    width, height = struct.unpack(">II", figure.png[16:24])
    assert width == 160 * 6.6
    assert height == pytest.approx(160 * (0.9 + 0.42 * count), abs=1)
    assert r"$\frac$ unbalanced" in figure.svg
    assert "模型" in figure.svg
    assert plot_length("l", r"$\bad", NAMES, [np.ones(2)] * count, [np.ones(2)] * count).png


def test_intervals_are_drawn_where_there_are_any():
    reaches = [(0.5, 2.0), (4.0, 6.0)]
    with_interval = pixels(plot_scores("s", "t", ["a", "b"], [1.0, 5.0], reaches).png)
    without = pixels(plot_scores("s", "t", ["a", "b"], [1.0, 5.0], [None, None]).png)
    assert with_interval.shape == without.shape
    assert (with_interval != without).any()


def test_empty_answers_have_a_place_on_the_length_axis():
    drawn = pixels(
        plot_length("l", "t", ["a"], [np.array([0.0, 100.0])], [np.array([50.0, 50.0])]).png
    )
    without = pixels(plot_length("l", "t", ["a"], [np.array([100.0])], [np.array([50.0])]).png)
    # The first system's blue, in the left part of the axes.
    blue = np.array([0x00, 0x72, 0xB2]) / 255

    def num_blue(picture: np.ndarray) -> int:
        left = picture[:, : picture.shape[1] // 3, :3]
        return int((np.abs(left - blue).max(axis=2) < 0.35).sum())

    assert num_blue(drawn) > num_blue(without)


def test_a_long_name_leaves_room_for_what_it_names(recwarn):
    drawn = plot_scores("s", "t", ["n" * 300], [1.0], [None])
    assert f">{'n' * 39}…</text>" in drawn.svg
    assert "n" * 300 in drawn.alt
    assert [str(warning.message) for warning in recwarn] == []
