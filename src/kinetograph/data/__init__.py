"""Labelled structures: reading, checking, and feeding them to a model."""
