"""The OpenAPI documents as pages for people: HTML made here, and one script that sends examples."""
