"""What people read: live views, tables, figures. Never imports torch."""
