"""The admin port: operators' API, health and metrics, as an ordinary Starlette application."""
