"""A server of pictures over HTTP: OpenAI's and AUTOMATIC1111's interfaces, jobs of its own, and a page."""
