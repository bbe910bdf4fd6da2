"""Networks of one's own, outside the plugin."""
