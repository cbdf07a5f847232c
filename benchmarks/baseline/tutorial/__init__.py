"""A chat server as the tutorials of Channels build it, with the settings that suit it best."""
