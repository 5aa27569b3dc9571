"""Evaluation: pictures of two bundles compared."""
