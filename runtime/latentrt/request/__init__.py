"""Requests: what a picture is asked for, and what that means for a bundle."""
