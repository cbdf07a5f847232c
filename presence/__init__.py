"""Who is online: one presence per user, whatever the number of their devices and of the servers."""
