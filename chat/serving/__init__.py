"""
An HTTP API that any client of OpenAI's protocol can use.

In reading order, each file imports only those above it:

    protocol      what travels over the wire
    errors        errors in the protocol's shape
    batches       requests that wait with the same search are computed together
    completions   a request's replies, as text that grows
    illustrating  a reply, with the pictures and the sound that a request asks for
    metrics       figures for Prometheus
    gate          what every request passes: its id, the key, the limit of its size
    service       a chatbot behind the protocol: from a request to its answer
    app           the routes
    server        `chatformer serve`: from a command line to a running server
    cluster       the same app under Ray Serve, on several machines
"""
