"""Image files to pictures and back: every mode, and what travels with the pixels."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from anysr.imaging import FORMATS, ImageError, Metadata, Picture, encode_image, read_image, upright_size
from anysr.imaging.jpeg import num_scans
from anysr.imaging.metadata import parse_exif
from tests.enlarging import encoded, smooth, srgb_profile

PNG = FORMATS["PNG"]
TAKEN, WIDTH, HEIGHT = 0x9003, 0xA002, 0xA003


def exif_block(orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "camera"
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {TAKEN: "2020:01:02 03:04:05", WIDTH: 9, HEIGHT: 8}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif.tobytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("peak", [255, 65_535])
@pytest.mark.parametrize(("channels", "has_alpha"), [(1, False), (1, True), (3, False), (3, True), (4, False)])
def test_round_trips(name, peak, channels, has_alpha):
    planes = smooth(21, 34, channels + 1, peak)
    metadata = Metadata(srgb_profile() if channels == 3 else None, exif_block(), (300.0, 150.0))
    picture = Picture(planes[..., :-1], planes[..., -1] if has_alpha else None, metadata)
    spec = FORMATS[name]
    data, written = encode_image(picture, spec, 100)
    read = read_image(data)

    lossy = 6 if name == "JPEG" else 0
    assert read.colour.dtype == written.colour.dtype
    assert np.abs(read.colour.astype(int) - written.colour).max() <= lossy
    assert (read.alpha is not None) == (has_alpha and spec.has_alpha)
    if read.alpha is not None:
        assert np.array_equal(read.alpha, written.alpha)
    if channels in spec.channels and (peak == 255 or spec.has_16_bit) and (spec.has_alpha or not has_alpha):
        assert written.notes == ()
        assert np.array_equal(written.colour, picture.colour)
    assert read.metadata.icc == written.metadata.icc
    assert (read.metadata.icc == srgb_profile()) == (channels == 3)
    assert read.metadata.dpi == pytest.approx((300, 150), rel=1e-4)
    exif = parse_exif(read.metadata.exif)
    assert exif[ExifTags.Base.Model] == "camera"
    assert exif.get_ifd(ExifTags.IFD.Exif) == {TAKEN: "2020:01:02 03:04:05", WIDTH: 34, HEIGHT: 21}
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"


FAITHFUL = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "TIFF": {}}


@pytest.mark.parametrize(("name", "options"), FAITHFUL.items())
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured_once(name, options, orientation):
    upright = smooth(16, 24, 3)
    turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}.get(orientation)  # fmt: skip
    stored = Image.fromarray(upright)
    stored = stored if turn is None else stored.transpose(Image.Transpose[turn])
    data = encoded(stored, name, exif=exif_block(orientation), **options)
    picture = read_image(data)
    assert picture.size == upright_size(data) == (16, 24)
    assert np.abs(picture.colour.astype(int) - upright).mean() < 2
    assert parse_exif(picture.metadata.exif)[ExifTags.Base.Orientation] == 1
    again = read_image(encode_image(picture, FORMATS["PNG"])[0])
    assert np.array_equal(again.colour, picture.colour)


@pytest.mark.parametrize("peak", [255, 65_535])
@pytest.mark.parametrize(("byteorder", "bigtiff"), [("<", False), (">", False), ("<", True), (">", True)])
def test_what_tiffs_of_every_kind_say(peak, byteorder, bigtiff):
    out, upright = io.BytesIO(), smooth(6, 9, 3, peak)
    turned = np.ascontiguousarray(np.rot90(upright))
    tags = [(274, 3, 1, 6, True), (272, 2, None, b"camera\0", True)]
    what = {"extratags": tags, "iccprofile": srgb_profile(), "resolution": (300, 150), "resolutionunit": "inch"}
    tifffile.imwrite(out, turned, photometric="rgb", byteorder=byteorder, bigtiff=bigtiff, metadata=None, **what)
    picture = read_image(out.getvalue())
    assert np.array_equal(picture.colour, upright)
    assert picture.metadata.icc == srgb_profile()
    assert picture.metadata.dpi == pytest.approx((150, 300))
    assert picture.notes == ()
    assert parse_exif(picture.metadata.exif)[ExifTags.Base.Model] == "camera"


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    chunk = len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    return png[:33] + chunk + png[33:]


def test_a_size_is_told_without_decoding(monkeypatch):
    """A PNG may tell its orientation behind its pixels; those of a bomb are not decoded for it."""
    png = encoded(Image.new("L", (2_000, 1_000)), "PNG")
    decoded = []
    monkeypatch.setattr(Image.Image, "load", lambda image: decoded.append(image.size))
    assert upright_size(png, max_megapixels=1) == (1_000, 2_000)
    assert decoded == []


def test_the_thumbnail_is_dropped():
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "camera"
    thumbnail = encoded(Image.new("RGB", (160, 120), "red"), "JPEG")
    block = exif.tobytes()
    # IFD1 by hand: Pillow writes none. Compression, offset and length of a JPEG.
    tiff = bytearray(block[6:])
    offset = len(tiff)
    count = int.from_bytes(tiff[8:10], "big")
    tiff[10 + 12 * count : 14 + 12 * count] = offset.to_bytes(4, "big")
    entries = [(0x103, 3, 6 << 16), (0x201, 4, offset + 42), (0x202, 4, len(thumbnail))]
    tiff += len(entries).to_bytes(2, "big")
    for tag, kind, value in entries:
        tiff += tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + (1).to_bytes(4, "big") + value.to_bytes(4, "big")
    tiff += bytes(4) + thumbnail
    data = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0" + bytes(tiff))
    assert Image.open(io.BytesIO(data)).getexif().get_ifd(ExifTags.IFD.IFD1)
    written = encode_image(read_image(data), FORMATS["JPEG"])[0]
    assert written.count(b"\xff\xd8") == 1
    assert Image.open(io.BytesIO(written)).getexif()[ExifTags.Base.Model] == "camera"


def test_palettes():
    colours = Image.fromarray(smooth(12, 14, 3)).quantize(16)
    assert np.array_equal(read_image(encoded(colours, "PNG")).colour, np.asarray(colours.convert("RGB")))
    transparent = read_image(encoded(colours, "PNG", transparency=3))
    assert np.array_equal(transparent.alpha == 0, np.asarray(colours) == 3)
    grey = Image.fromarray(smooth(12, 14, 1)[..., 0]).quantize(16)
    assert read_image(encoded(grey, "PNG")).colour.shape == (12, 14, 1)
    read = read_image(encoded(grey, "PNG", icc_profile=srgb_profile()))  # which would be lost with one channel
    assert (read.colour.shape, read.metadata.icc, read.notes) == ((12, 14, 3), srgb_profile(), ())
    assert read_image(encoded(Image.new("1", (5, 4), 1), "PNG")).colour.tolist() == [[[255]] * 5] * 4


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey(bits):
    levels = (np.arange(8) % 2**bits).astype(np.uint8)
    packed = np.unpackbits(levels[:, None], axis=1)[:, 8 - bits :]
    scanline = b"\0" + np.packbits(packed).tobytes()
    header = (8).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes((bits, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + encoded(Image.new("L", (8, 1)), "PNG")[-12:]
    for kind, body in ((b"IDAT", zlib.compress(scanline)), (b"tRNS", b"\0\1"), (b"IHDR", header)):
        data = data[:8] + with_chunk(bytes(33), kind, body)[33:] + data[8:]
    picture = read_image(data)
    assert picture.colour[0, :, 0].tolist() == (levels * (255 // (2**bits - 1))).tolist()
    assert picture.alpha[0].tolist() == np.where(levels == 1, 0, 255).tolist()


def test_a_transparent_colour_of_16_bits():
    colour = smooth(4, 5, 3, 65_535)
    data, _ = encode_image(Picture(colour), FORMATS["PNG"])
    body = b"".join(int(v).to_bytes(2, "big") for v in colour[1, 2])
    alpha = read_image(with_chunk(data, b"tRNS", body)).alpha
    assert (alpha == 0).sum() == 1
    assert alpha[1, 2] == 0


def test_tiff_as_others_write_it():
    colour = smooth(9, 11, 3, 65_535)
    for options in ({"planarconfig": "separate"}, {"compression": "lzw"}, {"tile": (16, 16)}, {"byteorder": ">"}):
        out = io.BytesIO()
        pixels = colour.transpose(2, 0, 1) if "planarconfig" in options else colour
        tifffile.imwrite(out, np.ascontiguousarray(pixels), photometric="rgb", **options)
        assert np.array_equal(read_image(out.getvalue()).colour, colour), options
    out = io.BytesIO()
    tifffile.imwrite(out, colour[..., 0], photometric="miniswhite")
    assert np.array_equal(read_image(out.getvalue()).colour[..., 0], 65_535 - colour[..., 0])
    out, alpha = io.BytesIO(), np.full((9, 11), 32_768, np.uint16)
    multiplied = (colour.astype(float) * 32_768 / 65_535).round().astype(np.uint16)
    tifffile.imwrite(out, np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read_image(out.getvalue()).colour.astype(int) - colour).max() <= 1


@pytest.mark.parametrize("peak", [255, 65_535])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize(("photometric", "channels"), [("minisblack", 1), ("rgb", 3), ("separated", 4)])
def test_tiff_with_alpha_of_either_kind(peak, planarconfig, photometric, channels):
    colour = smooth(9, 11, channels, peak)
    for kind, alpha in (
        ("unassalpha", smooth(9, 11, 2, peak)[..., 1]),
        ("assocalpha", np.full((9, 11), peak // 2 + 1)),
    ):
        alpha = alpha.astype(colour.dtype)
        stored = (colour * (alpha[..., None] / peak)).round().astype(colour.dtype) if kind == "assocalpha" else colour
        planes, out = np.dstack([stored, alpha]), io.BytesIO()
        planes = planes if planarconfig == "contig" else np.ascontiguousarray(planes.transpose(2, 0, 1))
        tifffile.imwrite(out, planes, photometric=photometric, planarconfig=planarconfig, extrasamples=[kind])
        picture = read_image(out.getvalue())
        assert np.array_equal(picture.alpha, alpha)
        assert np.abs(picture.colour.astype(int) - colour).max() <= (1 if kind == "assocalpha" else 0)


@pytest.mark.parametrize("peak", [255, 65_535])
def test_a_channel_of_unknown_meaning_hides_nothing(peak):
    """As a scanner's infrared."""
    colour, out = smooth(9, 11, 3, peak), io.BytesIO()
    planes = np.dstack([colour, np.zeros((9, 11), colour.dtype)])
    tifffile.imwrite(out, planes, photometric="rgb", extrasamples=["unspecified"])
    picture = read_image(out.getvalue())
    assert picture.alpha is None
    assert np.array_equal(picture.colour, colour)


@pytest.mark.parametrize("what", ["signed 8", "signed 16", "12 bits"])
def test_tiffs_of_other_numbers_are_refused(what):
    out = io.BytesIO()
    if what == "12 bits":
        tifffile.imwrite(out, np.full((8, 8), 3000, np.uint16), photometric="minisblack", bitspersample=12)
    else:
        tifffile.imwrite(out, np.zeros((8, 8), np.int8 if "8" in what else np.int16), photometric="minisblack")
    with pytest.raises(ImageError, match="bits a channel are not read; save it with 8 or 16"):
        read_image(out.getvalue())


def test_inks_become_srgb_where_a_format_holds_none():
    inks = smooth(10, 12, 4)
    data, written = encode_image(Picture(inks), FORMATS["PNG"])
    assert np.array_equal(read_image(data).colour, np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")))
    assert written.notes == ("CMYK became sRGB: PNG holds no inks",)


def test_a_profile_of_another_kind_is_left_out():
    picture = read_image(encoded(Image.fromarray(smooth(5, 6, 1)[..., 0]), "PNG", icc_profile=srgb_profile()))
    assert picture.metadata.icc is None
    assert "profile" in picture.notes[0]
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert read_image(encoded(Image.new("RGB", (4, 4)), "PNG", icc_profile=lab)).metadata.icc is None


def of_many_scans(count: int) -> bytes:
    data = encoded(Image.fromarray(smooth(8, 8, 3)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def test_only_scans_of_the_first_picture_are_counted():
    """Motion photos have a video behind them, in which the bytes of a scan's marker occur by chance."""
    photo = encoded(Image.fromarray(smooth(8, 8, 3)), "JPEG", progressive=True)
    video = bytes(1000) + b"\xff\xda" * 600
    noted = encoded(Image.fromarray(smooth(8, 8, 3)), "JPEG", comment=b"\xff\xd9" + b"\xff\xda" * 600)
    assert read_image(photo + video).size == (8, 8)
    assert num_scans(photo + video, 501) == num_scans(photo, 501) == photo.count(b"\xff\xda")
    assert num_scans(noted, 501) == 1
    for hidden in (of_many_scans(501), noted[:2] + noted[20:-2] + of_many_scans(501)[2:]):
        assert num_scans(hidden, 501) == 501


PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:'
    'Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}" tiff:ImageWidth="{}"><tiff:'
    "ImageLength>{}</tiff:ImageLength></rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_xmp_is_carried_upright(source, target):
    picture = Picture(smooth(6, 8, 3), None, Metadata(xmp=PACKET.format(6, 8, 6).encode(), exif=exif_block()))
    data = encode_image(picture, FORMATS[source])[0]
    assert PACKET.format(6, 8, 6).encode() in data
    read = read_image(data)
    enlarged = replace(read, colour=smooth(12, 16, 3))
    written, picture = encode_image(enlarged, FORMATS[target])
    assert PACKET.format(1, 16, 12).encode() in written
    assert picture.notes == ()
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["xmp"] == PACKET.format(1, 16, 12).encode()
    assert parse_exif(read_image(written).metadata.exif)[ExifTags.Base.Model] == "camera"


def test_xmp_behind_the_pixels_of_a_png():
    data = encode_image(Picture(smooth(6, 8, 3), None, Metadata(exif=exif_block())), PNG)[0]
    xmp = with_chunk(bytes(33), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")[33:]
    assert read_image(data[:-12] + xmp + data[-12:]).metadata.xmp == b"<x/>"


def test_xmp_that_tells_of_more_than_the_photo_is_left_out():
    image = Image.fromarray(smooth(6, 8, 3))
    read = read_image(encoded(image, "JPEG", xmp=b'<x GCamera:MotionPhoto="1"/>'))
    assert read.metadata.xmp is None
    assert "XMP" in read.notes[0]
    written = encode_image(Picture(smooth(6, 8, 3), None, Metadata(xmp=b"<x>" + bytes(70_000))), FORMATS["JPEG"])[1]
    assert "XMP" in written.notes[0]


@pytest.mark.parametrize("peak", [255, 65_535])
def test_what_a_png_says_of_its_colours(peak):
    linear = ((b"gAMA", (100_000).to_bytes(4, "big")),)
    text = ((b"tEXt", b"Author\0me"),)
    data, written = encode_image(Picture(smooth(4, 5, 3, peak), None, Metadata(colours=linear, texts=text)), PNG)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.info["gamma"], image.text) == (1.0, {"Author": "me"})
    read = read_image(data)
    assert (read.metadata.colours, read.metadata.texts, written.notes) == (linear, text, ())
    assert encode_image(read, PNG)[0] == data
    notes = [note for note in encode_image(read, FORMATS["JPEG"])[1].notes if "16 bits" not in note]
    assert ["gamma" in notes[1], "texts" in notes[0], len(notes)] == [True, True, 2]
    # Nothing is lost of what says what is taken for granted, or less than a profile.
    usual = ((b"gAMA", (45_455).to_bytes(4, "big")),)
    for metadata in (Metadata(colours=usual), Metadata(srgb_profile(), colours=linear)):
        assert encode_image(Picture(smooth(4, 5, 3), None, metadata), FORMATS["JPEG"])[1].notes == ()


@pytest.mark.parametrize("iptc", [b"\x1c\x02\x78\x00\x05a day", b"\x1c\x02\x78\x00\x04days"])  # odd, even
def test_iptc_goes_from_jpeg_to_jpeg(iptc):
    picture = Picture(smooth(4, 5, 3), None, Metadata(iptc=iptc, xmp=b"<x/>", icc=srgb_profile()))
    read = read_image(encode_image(picture, FORMATS["JPEG"])[0])
    assert read.metadata == picture.metadata
    assert encode_image(read, PNG)[1].notes == ("its IPTC was left out: PNG is written with none",)
    with Image.open(io.BytesIO(encode_image(read, FORMATS["JPEG"])[0])) as image:
        assert image.info["photoshop"][0x0404] == iptc
    longest = replace(picture, metadata=Metadata(iptc=b"\x1c" * (65_533 - 27)))
    assert read_image(encode_image(longest, FORMATS["JPEG"])[0]).metadata.iptc == longest.metadata.iptc
    longer = replace(picture, metadata=Metadata(iptc=b"\x1c" * (65_533 - 26)))
    assert encode_image(longer, FORMATS["JPEG"])[1].notes == (
        "its IPTC was left out: JPEG is written with none so long",
    )


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("peak", [255, 65_535])
def test_iptc_of_a_tiff_goes_to_tiff_and_jpeg(peak, words):
    iptc, out = b"\x1c\x02\x78\x00\x07caption", io.BytesIO()
    value = (4, 3, struct.unpack("<3I", iptc)) if words else (7, len(iptc), iptc)
    tifffile.imwrite(out, smooth(4, 5, 3, peak), photometric="rgb", metadata=None, extratags=[(33_723, *value, True)])
    picture = read_image(out.getvalue())
    for name in ("TIFF", "JPEG"):
        data, written = encode_image(picture, FORMATS[name])
        assert read_image(data).metadata.iptc == iptc
        assert not any("IPTC" in note for note in written.notes)


def exif_of(tags: bytes, **options) -> bytes:
    return encoded(Image.fromarray(smooth(8, 8, 3)), "JPEG", exif=tags, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_text_of_exif_keeps_its_bytes(name):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "J__rgen"
    exif[ExifTags.IFD.Exif] = {0xA434: "L__ns"}
    jpeg = exif_of(exif.tobytes()).replace(b"__", "ü".encode())
    data, _ = encode_image(read_image(jpeg), FORMATS[name])
    assert b"J\xc3\xbcrgen\0" in data and b"L\xc3\xbcns\0" in data
    assert encode_image(read_image(data), FORMATS[name])[0].count("ü".encode()) == data.count("ü".encode())


@pytest.mark.parametrize("name", FORMATS)
def test_the_table_of_interoperability_is_carried(name):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {0xA001: 65_535, ExifTags.IFD.Interop: {1: "R03"}}
    with Image.open(io.BytesIO(encode_image(read_image(exif_of(exif.tobytes())), FORMATS[name])[0])) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.Exif)[0xA001] == 65_535
        assert image.getexif().get_ifd(ExifTags.IFD.Interop)[1] == "R03"


@pytest.mark.parametrize("place", [7, 99_999])
def test_a_table_that_begins_nowhere_costs_no_photo(place):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {0xA434: "Lens", ExifTags.IFD.Interop: place}
    exif[ExifTags.Base.Make] = "Me"
    picture = read_image(encode_image(read_image(exif_of(exif.tobytes())), FORMATS["TIFF"])[0])
    read = parse_exif(picture.metadata.exif)
    assert (read[ExifTags.Base.Make], read.get_ifd(ExifTags.IFD.Exif)[0xA434]) == ("Me", "Lens")


def test_a_tag_of_another_type_costs_no_other():
    right, wrong = b"Copyright\0", b"300\0"  # XResolution is a ratio
    table = struct.pack("<H", 2) + struct.pack("<HHI", 0x11A, 2, 4) + wrong + struct.pack("<HHII", 0x8298, 2, 10, 38)
    picture = read_image(exif_of(b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + bytes(4) + right))
    assert dict(parse_exif(picture.metadata.exif)) == {ExifTags.Base.Copyright: "Copyright"}
    assert picture.notes == ("tags of its EXIF whose values are of another type than EXIF's were left out: 1",)


def test_long_exif_loses_its_longest_tags_in_a_jpeg_alone():
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "mine"
    exif[ExifTags.IFD.Exif] = {0x927C: b"N" * 40_000, 0x9286: b"ASCII\0\0\0" + b"M" * 40_000, 0xA434: "Lens"}
    picture = Picture(smooth(4, 5, 3), None, Metadata(exif=exif.tobytes()))
    for name in ("PNG", "WEBP", "TIFF"):
        data, written = encode_image(picture, FORMATS[name])
        assert b"N" * 40_000 in data and b"M" * 40_000 in data
        assert written.notes == ()
    data, written = encode_image(picture, FORMATS["JPEG"])
    assert written.notes == ("the longest tags of its EXIF, which is too long for JPEG, were left out: 1",)
    assert b"N" * 40_000 in data and b"Lens" in data and b"mine" in data


def test_exif_gets_no_empty_table():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Me"
    assert dict(parse_exif(encode_image(read_image(exif_of(exif.tobytes())), PNG)[1].metadata.exif)) == dict(exif)


def test_the_rest_of_a_long_xmp_is_told_to_be_lost():
    packet = b'<x:xmpmeta><rdf:Description a="1" xmpNote:HasExtendedXMP="0123"/></x:xmpmeta>'
    picture = read_image(encoded(Image.fromarray(smooth(4, 5, 3)), "JPEG", xmp=packet))
    assert picture.metadata.xmp == b'<x:xmpmeta><rdf:Description a="1"/></x:xmpmeta>'
    assert picture.notes == ("the part of its XMP that does not fit into one segment of a JPEG was left out",)


def test_more_pixels_an_inch_than_a_jpeg_holds():
    picture = Picture(smooth(4, 5, 3), None, Metadata(dpi=(1e6, 1e6)))
    for name in FORMATS:
        data, written = encode_image(picture, FORMATS[name])
        told = ("its 1e+06 pixels per inch were left out: JPEG holds at most 65535",)
        assert written.notes == (told if name == "JPEG" else ())
        assert name == "JPEG" or read_image(data).metadata.dpi == pytest.approx((1e6, 1e6), rel=1e-4)


def test_what_goes_with_hdr_is_kept_and_oblong_pixels_are_told():
    chunks = ((b"cICP", bytes((9, 16, 0, 1))), (b"mDCV", bytes(24)), (b"cLLI", bytes(8)))
    png = encode_image(Picture(smooth(4, 5, 3)), PNG)[0]
    for kind, body in reversed((*chunks, (b"pHYs", struct.pack(">IIB", 2, 1, 0)))):
        png = with_chunk(png, kind, body)
    picture = read_image(png)
    assert picture.metadata.colours == chunks
    assert picture.notes == ("the shape of its pixels, 1 to 2, was left out",)
    assert read_image(encode_image(picture, PNG)[0]).metadata.colours == chunks


def test_comments():
    read = read_image(encoded(Image.fromarray(smooth(4, 5, 3)), "JPEG", comment=b"by me"))
    assert read_image(encode_image(read, FORMATS["JPEG"])[0]).metadata.comment == b"by me"
    assert encode_image(read, PNG)[1].notes == ("its comment was left out: PNG holds none",)


def test_transparency_that_hides_nothing_is_no_loss():
    colour, alpha = smooth(4, 5, 3), np.full((4, 5), 255, np.uint8)
    assert encode_image(Picture(colour, alpha), FORMATS["JPEG"])[1].notes == ()
    alpha[1, 2] = 254
    assert "transparency" in encode_image(Picture(colour, alpha), FORMATS["JPEG"])[1].notes[0]


def test_a_lossless_webp_stays_one():
    colour = smooth(13, 17, 3)
    for options, lossless in (
        ({"lossless": True}, True),
        ({"lossless": True, "exif": exif_block()}, True),
        ({}, False),
    ):
        read = read_image(encoded(Image.fromarray(colour), "WEBP", **options))
        assert read.is_lossless == lossless
        again = read_image(encode_image(read, FORMATS["WEBP"])[0])
        assert (again.is_lossless, np.array_equal(again.colour, read.colour)) == (lossless, lossless)
        assert not read_image(encode_image(read, FORMATS["WEBP"], 95)[0]).is_lossless


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (encoded(Image.new("RGB", (40, 40)), "PNG")[:60], "cut short"),
        (encoded(Image.fromarray(smooth(40, 40, 3)), "JPEG")[:700], "cut short"),
        (encoded(Image.new("RGB", (30_000, 1_000)), "PNG", compress_level=9), "30 megapixels, more than 20"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "32 bits"),
        (encoded(Image.new("LAB", (4, 4)), "TIFF"), "LAB"),
        (encoded(Image.new("RGB", (4, 4)), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "red")]),
         "animated GIF"),
        (encoded(Image.new("L", (4, 4)), "PNG", save_all=True, append_images=[Image.new("L", (4, 4), 9)]),
         "animated PNG"),
        (encoded(Image.new("RGB", (4, 4)), "WEBP", save_all=True, append_images=[Image.new("RGB", (4, 4), "red")]),
         "animated WEBP"),
        (encoded(Image.new("RGB", (4, 4)), "TIFF", save_all=True, append_images=[Image.new("RGB", (4, 4))]), "several"),
        (of_many_scans(501), "scans"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_refused(data, reason):
    with pytest.raises(ImageError, match=reason):
        read_image(data, max_megapixels=20)


def test_sizes_that_a_format_cannot_hold():
    wide = Picture(np.zeros((1, 16_384, 1), np.uint8))
    with pytest.raises(ValueError, match="at most 16383"):
        encode_image(wide, FORMATS["WEBP"])
    with pytest.raises(ValueError, match="quality"):
        encode_image(wide, FORMATS["JPEG"], 0)
    assert read_image(encode_image(replace(wide, format=""), FORMATS["PNG"])[0]).size == (1, 16_384)
