"""The web page of `demo`: its handlers, its model, and what may reach it."""
