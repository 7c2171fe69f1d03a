"""Music in a browser: `app` is the studio, `engine` makes what it plays, `listen` is the blind listening test; `web` is
what both servers have in common."""
