"""Forms of models for running: a network in compiled passes on a CPU, or in fused operators on a GPU."""
