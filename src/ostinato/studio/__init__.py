"""Music in a browser, and people who judge it blind: `ostinato studio`, `ostinato play`, `ostinato listen`.

app           the studio's server: the page, the WebSocket, the API for programs (openapi describes it)
session       one listener: commands in, sound out, credit and place in the queue
engine        the model behind it: takes as they are made, kept, made again
loudspeakers  `ostinato play`
web           what both servers have in common: headers, origins, limits, refusals in words
listen/       the blind listening test: prepare, serve, results
static/       pages, style and scripts; nothing is fetched from elsewhere
"""
