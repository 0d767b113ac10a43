"""The gateway as a process: its parts are chosen and connected here."""
