"""Shows the texts of emitterd in other languages, by gettext catalogues.

The lowest layer: it imports nothing of emitterd. The code makes each text in English, as a `Text`
or `plural` that keeps its message and its values. The page and the alerts translate it where they
show it. Log, journal, commands and JSON stay English. docs/translation.md is the guide.
"""
