"""A blind listening test on the web, after the paper (section IV-B): `prepare` makes a folder of anonymous clips
(`stimuli`), `manifest` says what is in it, `assignment` which clips a listener hears, `ballots` keeps the answers,
`server` asks them; `results` counts them with the help of `statistics`."""
