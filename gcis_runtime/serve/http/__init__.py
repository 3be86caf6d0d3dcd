"""Answer HTTP requests: the routes of the service, uploads, access, and the OpenAPI document."""
