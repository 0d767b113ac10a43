"""The services of bundle versions and their readiness: one service per version."""
