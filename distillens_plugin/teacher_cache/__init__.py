"""`teacher_cache:` keeps a fixed teacher's hidden states on disk instead of computing them again.

Either the teacher runs in the first epoch, and its states at supervised positions are stored; or
`distillens cache` has stored them before, and only the teacher's head is loaded. See
docs/teacher_cache.md.
"""

from distillens_plugin.teacher_cache.attach import attach_teacher_cache
from distillens_plugin.teacher_cache.choice import describe_choice, needs_readout_alone
from distillens_plugin.teacher_cache.plan import plan_teacher_cache

__all__ = [
    "attach_teacher_cache",
    "describe_choice",
    "needs_readout_alone",
    "plan_teacher_cache",
]
