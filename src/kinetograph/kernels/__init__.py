"""Fast forms of a few operations. Each has its plain form, in the file that uses it, as oracle.

The compiled library is chosen when it is first needed (``native.choice`` says which and why); where there
is none, or on another device, the plain forms run.
"""

from kinetograph.kernels.native import (
    Choice,
    Library,
    choice,
    library,
    only_plain_forms,
    plain_forms,
    triton_kernels,
)

__all__ = [
    "Choice",
    "Library",
    "choice",
    "library",
    "only_plain_forms",
    "plain_forms",
    "triton_kernels",
]
