"""The people at the page: sign-in, sessions, confirmed actions."""
