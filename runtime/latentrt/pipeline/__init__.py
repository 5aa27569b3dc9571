"""The pipeline: from a request to pictures, step by step."""
