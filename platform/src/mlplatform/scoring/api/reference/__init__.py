"""The OpenAPI documents as pages for people: examples, HTML, and the one script that sends."""
