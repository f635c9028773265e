"""Fused operations on edges as operators of torch: they compile, they export, and they have derivatives.

Each file holds the plain form, which is the oracle of all others and runs on any device, and says what the
operator's derivatives are. On a GPU the Triton kernels of ``kernels/gpu`` run in its place.

Edges are those of a graph: sorted by centre, those of atom i from ``first[i]`` to ``first[i + 1] − 1``; every
edge has one that goes back, of the same length, so that what flows back to a neighbour is a sum over its own
edges too, in a fixed order. Functions of distance are tables of cubic B-splines (``kernels/spline.py``),
zero beyond the end of the table.
"""
