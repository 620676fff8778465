"""The daemon's recipe in real OE-Core: parsed and unpacked alone, without the recipes that it depends on."""

from __future__ import annotations

import pytest
import testbed

pytestmark = pytest.mark.oe

RECIPE = "recipes-devtools/detbuildd/detbuildd.bb"


def test_the_daemons_recipe_brings_its_units_and_wants_systemd() -> None:
    recipe = str(testbed.layer() / RECIPE)
    build = testbed.BuildDirectory(testbed.PLACE / "daemon", 'DISTRO_FEATURES:append = " systemd"')
    variables = build.bitbake("-e", "-b", recipe)
    assert 'SYSTEMD_SERVICE:detbuildd="detbuildd.socket"' in variables
    assert 'GROUPADD_PARAM:detbuildd="--system detbuild"' in variables
    assert 'RRECOMMENDS:detbuildd=""' in variables
    build.bitbake("-b", recipe, "-c", "unpack")
    (sources,) = (build.path / "tmp/work").glob("*/detbuildd/*/sources")
    names = {path.name for path in sources.iterdir()}
    assert names >= {"LICENSE", "detbuildd.service", "detbuildd.socket", "detbuildd.yaml"}
