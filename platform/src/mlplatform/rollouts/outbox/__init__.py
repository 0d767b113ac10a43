"""The outbox of the journals: facts as events, and how far each receiver of them has come."""
