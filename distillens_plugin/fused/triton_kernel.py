"""The elementwise pass of one divergence as a single Triton kernel: one program for each row.

Pass 1 takes both models' maxima and sums of exponentials, pass 2 the sums of the loss, and pass 3
writes the gradient; forward KL needs no pass 3. Logarithms are to base 2 inside, as the hardware
has them.
Import it only where Triton is wanted: that takes a second, and many machines lack it.

Legend: r rows, V vocabulary; p teacher, q student, d = log2(p/q), L = log2(m/q).
"""

import triton  # type: ignore[import-untyped, import-not-found]
import triton.language as tl  # type: ignore[import-untyped, import-not-found]
from triton.language.extra import libdevice  # type: ignore[import-untyped, import-not-found]

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Logarithms stay so far inside float32's range that no difference of two of them leaves it.
LARGEST = tl.constexpr(5e37)
# 2 ** -115 = e ** -80 is the least probability of the mixture's pair. So p/q and its inverse fit
# into float32, and p = (p/q) q stays right where q itself would have underflowed.
LEAST = tl.constexpr(-115.0)
FORWARD = tl.constexpr(0)
REVERSE = tl.constexpr(1)
MIXTURE = tl.constexpr(2)


@triton.jit
def _capped(x, scale, cap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    x = x.to(tl.float32) * scale
    if CAPPED:
        # tanh(y) = 1 - 2 / (1 + exp(2 y)), which is right at both infinities too.
        x = cap * (1 - 2 / (1 + tl.exp2(x * (2 * LOG2_E / cap))))
    return x


@triton.jit
def _log_share(x, largest, bits, log_total, LEAST_LOG: tl.constexpr):  # type: ignore[no-untyped-def]
    """log2 of a probability; the maximum goes first, so that large logits lose no digits."""
    return tl.minimum(tl.maximum((x - largest) * bits - log_total, LEAST_LOG), 0.0)


@triton.jit
def _online(x, largest, total, bits):  # type: ignore[no-untyped-def]
    """A maximum and a sum of exponentials for each lane, with one exponential an element."""
    step = tl.exp2(-tl.abs(x - largest) * bits)
    total = tl.where(x > largest, total * step + 1, total + step)
    return tl.maximum(x, largest), total


@triton.jit
def _together(largest, total, bits):  # type: ignore[no-untyped-def]
    """All lanes' maximum and log2 of their sum; without a column, a very low number and 0."""
    top = tl.max(largest, 0)
    total = tl.sum(total * tl.exp2((largest - top) * bits), 0)
    return top, tl.log2(tl.where(total > 0, total, 1.0))


@triton.jit
def _mixture(  # type: ignore[no-untyped-def]
    log_p, log_q, present, share, rest, SMALL: tl.constexpr, FAST: tl.constexpr
):
    """q, p/q, d and L."""
    d = log_p - log_q
    ratio = tl.exp2(d)
    q = tl.where(present, tl.exp2(log_q), 0.0)
    if SMALL:
        # log1p(x) = x log(1 + x) / ((1 + x) - 1): a small share keeps its digits.
        x = share * (ratio - 1)
        sum_ = 1 + x
        exact = sum_ == 1
        log_m = tl.where(exact, x * LOG2_E, tl.log2(sum_) * (x / tl.where(exact, 1.0, sum_ - 1)))
    elif FAST:
        log_m = libdevice.fast_log2f(rest + share * ratio)
    else:
        log_m = tl.log2(rest + share * ratio)
    return q, ratio, d, log_m


@triton.jit
def divergence_rows(  # type: ignore[no-untyped-def]
    student_ptr,
    teacher_ptr,
    losses_ptr,
    factors_ptr,
    student_stride,
    teacher_stride,
    student_scale,
    student_cap,
    teacher_scale,
    teacher_cap,
    cooling,
    share,
    rest,
    COMMON: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SMALL: tl.constexpr,
    FAST: tl.constexpr,
    STUDENT_CAPPED: tl.constexpr,
    TEACHER_CAPPED: tl.constexpr,
    HAS_FACTORS: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Losses [r] in nats, and the gradient over the student's raw products.

    Args:
        student_ptr, teacher_ptr: [r, V] raw products.
        losses_ptr, factors_ptr: [r] float32; the factors scale the gradient.
        cooling: 1 / temperature.
        share, rest: of the teacher and of the student in the mixture.
        COMMON: how many columns count.
        WIDTH: how many are read and written: as many, or more where the buffers have room, since
            only a multiple of 16 lets the loads be wide. The gradient of those is 0.
        SMALL: whether the teacher's share is so small that L would lose digits.
        FAST: take the GPU's own logarithm for L, which is within 2 ** -22, exactly 0 at 1, and a
            tenth of the instructions.
    """
    row = tl.program_id(0).to(tl.int64)  # rows times columns pass 2 ** 31
    student_ptr += row * student_stride
    teacher_ptr += row * teacher_stride
    lanes = tl.arange(0, BLOCK)
    LEAST_LOG: tl.constexpr = LEAST if KIND == MIXTURE else -2 * LARGEST

    bits = cooling * LOG2_E  # from a logit to the exponent of 2
    largest_s = tl.full([BLOCK], -2 * LARGEST, tl.float32)
    largest_t = tl.full([BLOCK], -2 * LARGEST, tl.float32)
    total_s = tl.zeros([BLOCK], tl.float32)
    total_t = tl.zeros([BLOCK], tl.float32)
    broken = tl.zeros([BLOCK], tl.int32)
    for start in range(0, WIDTH, BLOCK):
        at = start + lanes
        # The later passes read the row again: it should stay in the cache.
        s = tl.load(student_ptr + at, at < WIDTH, other=0.0, eviction_policy="evict_last")
        t = tl.load(teacher_ptr + at, at < WIDTH, other=0.0, eviction_policy="evict_last")
        s = _capped(s, student_scale, student_cap, STUDENT_CAPPED)
        t = _capped(t, teacher_scale, teacher_cap, TEACHER_CAPPED)
        present = (at < COMMON) & (s != -float("inf")) & (t != -float("inf"))
        # True for NaN as well.
        wrong = ((s < float("inf")) & (t < float("inf"))) == 0
        broken = broken | ((at < COMMON) & wrong).to(tl.int32)
        s = tl.where(present, s, -float("inf"))
        t = tl.where(present, t, -float("inf"))
        largest_s, total_s = _online(s, largest_s, total_s, bits)
        largest_t, total_t = _online(t, largest_t, total_t, bits)
    top_s, log_s = _together(largest_s, total_s, bits)
    top_t, log_t = _together(largest_t, total_t, bits)
    # Products that overflowed or are NaN make the whole row NaN, as a softmax does.
    poison = tl.where(tl.max(broken, 0) > 0, float("nan"), 0.0)

    factor = student_scale * cooling + poison
    if HAS_FACTORS:
        factor *= tl.load(factors_ptr + row)
    first = tl.zeros([BLOCK], tl.float32)
    second = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, BLOCK):
        at = start + lanes
        s = tl.load(student_ptr + at, at < WIDTH, other=0.0)
        t = tl.load(teacher_ptr + at, at < WIDTH, other=0.0)
        s = _capped(s, student_scale, student_cap, STUDENT_CAPPED)
        t = _capped(t, teacher_scale, teacher_cap, TEACHER_CAPPED)
        present = (at < COMMON) & (s != -float("inf")) & (t != -float("inf"))
        log_q = _log_share(s, top_s, bits, log_s, LEAST_LOG)
        log_p = _log_share(t, top_t, bits, log_t, LEAST_LOG)
        if KIND == MIXTURE:
            q, ratio, d, log_m = _mixture(log_p, log_q, present, share, rest, SMALL, FAST)
            first += ratio * q * (d - log_m)
            second += q * log_m
        else:
            q = tl.where(present, tl.exp2(log_q), 0.0)
            p = tl.where(present, tl.exp2(log_p), 0.0)
            d = log_p - log_q
            # The differences sum to 0 except for rounding, which they cancel in the loss.
            first += q - p
            if KIND == FORWARD:
                second += p * d
                if GRADIENT:
                    slope = factor
                    if STUDENT_CAPPED:
                        slope = factor * (1 - (s / student_cap) * (s / student_cap))
                    gradient = tl.where(at < COMMON, (q - p) * slope, 0.0)
                    tl.store(student_ptr + at, gradient, at < WIDTH)
            else:
                second += q * d
    one = tl.sum(first, 0)
    two = tl.sum(second, 0)
    if KIND == MIXTURE:
        loss = (share * one - rest * two) * LN_2
    elif KIND == FORWARD:
        loss = two * LN_2 + one
    else:
        loss = -two * LN_2 - one
    tl.store(losses_ptr + row, tl.maximum(loss, 0.0) + poison)

    if GRADIENT and KIND != FORWARD:
        factor *= -LN_2
        if KIND == MIXTURE:
            factor *= rest
        for start in range(0, WIDTH, BLOCK):
            at = start + lanes
            s = tl.load(student_ptr + at, at < WIDTH, other=0.0)
            t = tl.load(teacher_ptr + at, at < WIDTH, other=0.0, eviction_policy="evict_first")
            s = _capped(s, student_scale, student_cap, STUDENT_CAPPED)
            t = _capped(t, teacher_scale, teacher_cap, TEACHER_CAPPED)
            present = (at < COMMON) & (s != -float("inf")) & (t != -float("inf"))
            log_q = _log_share(s, top_s, bits, log_s, LEAST_LOG)
            log_p = _log_share(t, top_t, bits, log_t, LEAST_LOG)
            if KIND == MIXTURE:
                q, _, _, pull = _mixture(log_p, log_q, present, share, rest, SMALL, FAST)
            else:
                q = tl.where(present, tl.exp2(log_q), 0.0)
                pull = log_p - log_q
            slope = factor
            if STUDENT_CAPPED:
                slope = factor * (1 - (s / student_cap) * (s / student_cap))
            gradient = tl.where(at < COMMON, q * (pull - two) * slope, 0.0)
            tl.store(student_ptr + at, gradient, at < WIDTH)
