"""`teacher_cache:` keeps a fixed teacher's hidden states on disk instead of computing them again.

In the first epoch the teacher runs and its states at supervised positions are stored; after that
they are read, and the teacher never runs. See docs/teacher_cache.md.
"""

from distillens_plugin.teacher_cache.attach import attach_teacher_cache
from distillens_plugin.teacher_cache.plan import plan_teacher_cache

__all__ = ["attach_teacher_cache", "plan_teacher_cache"]
