"""Triton kernels, one file for each of ``kernels/operators``, whose plain form is the oracle.

Triton comes with torch's builds for CUDA. Under ``TRITON_INTERPRET=1`` the kernels run on a CPU, slowly: so
they are tested where there is no GPU.

One program works on one atom, or on one edge, and where features are many on one block of them. It walks over
what it sums some at a time and keeps its sums in registers: nothing is added to from two sides, so a result
repeats to the bit.
"""
