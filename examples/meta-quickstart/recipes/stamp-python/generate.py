import datetime

print(f"BUILT = {datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')!r}")
