"""The throttle: measures what an application feels, and slows or pauses this program's own work.

`pace` decides, `probe` measures, `gate` stops work in SQL, `priority` asks the operating system,
and `throttle` puts them together; `unthrottled` is what all operations know of it.
"""
