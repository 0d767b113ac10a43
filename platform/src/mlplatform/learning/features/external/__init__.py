"""External views: tables that the bank has, imported and served like snapshots."""
