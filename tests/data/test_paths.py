import pytest

from medvlm_r1.data import folder_hash, write_folder
from medvlm_r1.data.image_facts import image_sizes
from medvlm_r1.data.paths import inside, leaves_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError


@pytest.mark.parametrize(
    "path", ["images/x.png", "x.png", "images/a..b.png", "images/...", "images/ü ö.png", "./x.png"]
)
def test_paths_inside(path):
    assert not leaves_folder(path)


@pytest.mark.parametrize(
    "path",
    ["../x", "images/../../x", "/x", "//server/x", "\\x", "images\\..\\..\\x", "C:/x", "C:x", "..", "", ".", "a\0b"],
)
def test_paths_outside(path):
    assert leaves_folder(path)


@pytest.fixture
def folder(tmp_path):
    """A data folder with one image, and a secret beside it."""
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "data-too").mkdir()
    (tmp_path / "data-too/x.png").write_bytes(b"neighbour")
    (tmp_path / "data/images/x.png").write_bytes(b"x")
    return tmp_path / "data"


def test_inside(folder):
    assert inside(folder, "images/x.png").read_bytes() == b"x"
    assert not inside(folder, "images/absent.png").exists()
    (folder / "images/same.png").symlink_to("x.png")
    assert inside(folder, "images/same.png").read_bytes() == b"x"
    # The folder itself may be a link.
    (folder.parent / "link").symlink_to(folder)
    assert inside(folder.parent / "link", "images/x.png").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../secret.png", "images/../../secret.png", "/etc/passwd", "", "a\0b"])
def test_names_that_lead_out(folder, name):
    with pytest.raises(UserError, match="the path leaves the folder"):
        inside(folder, name)


@pytest.mark.parametrize("target", ["../../secret.png", "../../data-too/x.png", "/etc/passwd", "../../nowhere.png"])
def test_links_that_lead_out(folder, target):
    (folder / "images/link.png").symlink_to(target)
    with pytest.raises(UserError, match=r"images/link.png: a symbolic link that leads outside"):
        inside(folder, "images/link.png")


def test_a_data_folder_whose_image_leads_out(folder):
    sample = Sample(id="a", images=("images/link.png",), question="q", options=("x", "y"), answer="x", modality="CT")
    write_folder(folder, [sample], info={"name": "t", "source": "t", "license": "t"})
    (folder / "images/link.png").symlink_to("../../secret.png")
    assert set(image_sizes(folder, [sample]).values()) == {None}
    with pytest.raises(UserError, match=r"link.png: a symbolic link that leads outside"):
        folder_hash(folder)
