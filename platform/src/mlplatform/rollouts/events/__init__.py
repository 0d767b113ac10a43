"""Facts of the journals as events, and how far each receiver of them has come."""
