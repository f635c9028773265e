"""Where true forces come from. OpenMM is imported when it is first used."""

from kinetograph.reference.generate import GeneratedData, equilibrated_water, generate_argon, generate_water

__all__ = ["GeneratedData", "equilibrated_water", "generate_argon", "generate_water"]
