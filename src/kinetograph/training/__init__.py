"""Training: losses, augmentation, the Lightning module, and what is written while it runs."""
