"""Who reads the page, and what people do on it: sign-in, sessions, confirmed actions."""
