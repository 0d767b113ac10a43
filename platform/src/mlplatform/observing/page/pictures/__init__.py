"""Pictures of the page: pure geometry and sentences, drawn by templates as inline SVG."""
