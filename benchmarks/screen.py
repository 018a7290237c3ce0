"""
The screen of a terminal, and a picture of it in which every character stays within its own cells.

`Screen` reads a program's output to a terminal; `Typeface` draws single characters; `draw` puts them together. pyte
knows which cells a character takes: one, or two for Hangul. Glyphs overlap if the font has other widths, so the font is
measured before it is used, and each glyph is measured when it is drawn.
"""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyte
from PIL import Image, ImageDraw, ImageFont
from pyte.screens import Char

Row = list[Char]
"""The cells of a line. The second cell of a wide character has no text."""

FAMILIES = ("D2Coding", "NanumGothicCoding", "Noto Sans Mono CJK KR")
"""Monospaced fonts whose Hangul is exactly two columns wide, the first choice first."""

BACKGROUND, TITLE_BAR, EDGE, FOREGROUND = "#1d2029", "#282c38", "#3b4050", "#d7dae3"
BUTTONS = ("#e0787a", "#dcb566", "#8bbd7c")
COLOURS = {
    "black": "#3b4050",
    "red": "#e0787a",
    "green": "#8bbd7c",
    "brown": "#dcb566",
    "blue": "#7aa5dc",
    "magenta": "#bd93d6",
    "cyan": "#68bcc8",
    "white": FOREGROUND,
}
DIM = 0.62
"""Share of its colour that dim text keeps; the rest is the background's."""
EIGHTHS_FROM_LEFT = {character: 8 - number for number, character in enumerate("█▉▊▋▌▍▎▏")}
PALETTE_SIZE = 64
"""Colours of the file. Text has few, and the file is a quarter of one with all of them."""


class FontError(ValueError):
    """No font to draw with; the message says what to install."""


class Screen(pyte.Screen):
    """
    A terminal's screen that keeps dim text, which pyte drops; it is stored as blinking text.

    It is so large that nothing scrolls and no line breaks; `wrapped` decides where lines break in the picture.
    """

    def __init__(self, columns: int = 500, lines: int = 5000):
        super().__init__(columns, lines)

    def select_graphic_rendition(self, *attributes: int) -> None:
        super().select_graphic_rendition(*dim_as_blinking(attributes))

    def rows(self) -> list[Row]:
        """The lines down to the cursor, without blanks at their ends; the cursor's cell is inverted."""
        rows = [[self.buffer[y][x] for x in range(self.columns)] for y in range(self.cursor.y + 1)]
        rows[-1][self.cursor.x] = rows[-1][self.cursor.x]._replace(reverse=True)
        for row in rows:
            while row and row[-1] == self.default_char:
                row.pop()
        return rows


def dim_as_blinking(attributes: Sequence[int]) -> Iterator[int]:
    """Replace the codes of dim text, unless the same numbers are part of a colour."""
    remaining = iter(attributes)
    for attribute in remaining:
        if attribute in (38, 48):
            kind = next(remaining, 0)
            yield from (attribute, kind)
            for _ in range({5: 1, 2: 3}.get(kind, 0)):
                yield next(remaining, 0)
        elif attribute == 22:
            yield from (22, 25)
        else:
            yield 5 if attribute == 2 else attribute


def text_of(row: Row) -> str:
    return "".join(cell.data for cell in row)


def row_of(text: str, *, dim: bool = False) -> Row:
    """A line of characters that are one column wide."""
    return [Char(character, blink=dim) for character in text]


def wrapped(row: Row, columns: int, hanging: int = 4) -> list[Row]:
    """Break a long line at spaces, and a long word anywhere; further lines are indented."""
    indent = num_leading_blanks(row)
    lines, margin, rest = [], indent, row[indent:]
    while margin + len(rest) > columns:
        room = columns - margin
        spaces = [number for number in range(1, room + 1) if rest[number].data == " "]
        # Without a space, anywhere but between the two cells of a character.
        end = spaces[-1] if spaces else room - (rest[room].data == "")
        lines.append(row_of(" " * margin) + rest[:end])
        margin, rest = indent + hanging, rest[end:]
        rest = rest[num_leading_blanks(rest) :]
    return [*lines, row_of(" " * margin) + rest]


def num_leading_blanks(row: Row) -> int:
    return next((number for number, cell in enumerate(row) if cell.data != " " or cell.reverse), 0)


@dataclass(frozen=True, kw_only=True)
class Typeface:
    """A monospaced font with Hangul, and the size in pixels of the cells that fit it."""

    regular: ImageFont.FreeTypeFont
    bold: ImageFont.FreeTypeFont
    tiles: dict[tuple[str, int, bool], Image.Image] = field(default_factory=dict)
    """Tiles that are drawn already."""

    @classmethod
    def load(cls, font: Path | None, bold_font: Path | None, size: int) -> "Typeface":
        """Load the fonts of these files, or of the machine; raise `FontError` if none fits."""
        if font is None:
            regular, bold = installed_fonts(size)
        else:
            regular = bold = loaded(font, size)
            if not has_hangul_in_two_columns(regular):
                raise FontError(
                    f"--font must be monospaced, with Hangul in exactly two columns. {font} is not. {ADVICE}"
                )
        return cls(regular=regular, bold=bold if bold_font is None else loaded(bold_font, size))

    @property
    def cell(self) -> tuple[int, int]:
        """Width and height of a cell."""
        return round(self.regular.getlength("M")), round(1.3 * self.regular.size)

    def tile(self, text: str, num_cells: int, *, bold: bool = False) -> Image.Image:
        """A character in its cells, as a mask; ink that does not fit is squeezed."""
        key = (text, num_cells, bold)
        if key not in self.tiles:
            width, height = num_cells * self.cell[0], self.cell[1]
            if text in EIGHTHS_FROM_LEFT:
                self.tiles[key] = bar(EIGHTHS_FROM_LEFT[text] / 8, width, height)
            else:
                self.tiles[key] = fitted(text, self.bold if bold else self.regular, width, height)
        return self.tiles[key]


def bar(share: float, width: int, height: int) -> Image.Image:
    """A part of a progress bar; unlike a font's, it leaves no gap to the next part."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).rectangle((0, height // 6, round(share * width) - 1, height - height // 6 - 1), fill=255)
    return mask


def fitted(text: str, font: ImageFont.FreeTypeFont, width: int, height: int) -> Image.Image:
    """A character in the middle of its cells; ink outside of them is moved or squeezed inside."""
    drawn = Image.new("L", (5 * width, 3 * height))
    baseline = round(height / 2 + 0.36 * font.size)
    ImageDraw.Draw(drawn).text((2.5 * width, height + baseline), text, fill=255, font=font, anchor="ms")
    mask = Image.new("L", (width, height))
    box = drawn.getbbox()
    if box is not None:
        ink = drawn.crop(box)
        left, top = box[:2]
        size = (min(ink.width, width), min(ink.height, height))
        place = (min(max(left - 2 * width, 0), width - size[0]), min(max(top - height, 0), height - size[1]))
        mask.paste(ink if ink.size == size else ink.resize(size, Image.Resampling.LANCZOS), place)
    return mask


ADVICE = (
    "On Debian and Ubuntu `apt install fonts-naver-d2coding` or `fonts-nanum-coding` installs one; --font FILE "
    "takes one from a file."
)


def installed_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]:
    """The regular and the bold font of the first family that is installed."""
    for family in FAMILIES:
        fonts = [matching_font(f"{family}:style={style}", size) for style in ("Regular", "Bold")]
        # If a family is missing, fontconfig names another one.
        if all(map(has_hangul_in_two_columns, fonts)):
            return fonts[0], fonts[1]
    raise FontError(f"There is no monospaced font with Hangul in exactly two columns on this machine. {ADVICE}")


def matching_font(pattern: str, size: int) -> ImageFont.FreeTypeFont:
    command = ["fc-match", "--format", "%{file}\n%{index}", pattern]
    try:
        file, index = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise FontError(f"fontconfig's fc-match finds fonts, and it fails here: {error}. {ADVICE}") from error
    return loaded(Path(file), size, int(index))


def loaded(file: Path, size: int, index: int = 0) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(file, size, index)
    except OSError as error:
        raise FontError(f"{file} cannot be read as a font: {error}. {ADVICE}") from error


def has_hangul_in_two_columns(font: ImageFont.FreeTypeFont) -> bool:
    """True if all of ASCII is equally wide and Hangul, which the font must have, twice as wide."""
    narrow = {font.getlength(character) for character in map(chr, range(32, 127))}
    wide = {font.getlength(character) for character in "가뭐힣"}
    # A font draws all missing characters alike.
    return len(narrow) == 1 and wide == {2 * narrow.pop()} and bytes(font.getmask("가")) != bytes(font.getmask("힣"))


def colours_of(cell: Char) -> tuple[str, str]:
    """The colours of a cell's text and background."""
    foreground, background = colour(cell.fg, FOREGROUND), colour(cell.bg, BACKGROUND)
    if cell.reverse:
        foreground, background = background, foreground
    return (mixed(foreground, background, DIM) if cell.blink else foreground), background


def colour(name: str, default: str) -> str:
    """A colour by pyte's name: one of 16 names, or hexadecimal digits."""
    return default if name == "default" else COLOURS.get(name.removeprefix("bright"), f"#{name}")


def mixed(first: str, second: str, share: float) -> str:
    pairs = zip(bytes.fromhex(first[1:]), bytes.fromhex(second[1:]), strict=True)
    return "#" + bytes(round(share * one + (1 - share) * other) for one, other in pairs).hex()


def draw(rows: Sequence[Row], title: str, columns: int, typeface: Typeface) -> Image.Image:
    """A window of that many columns with these lines."""
    width, height = typeface.cell
    margin, bar_height = 2 * width, round(1.3 * height)
    lines = [line for row in rows for line in wrapped(row, columns)]
    size = (columns * width + 2 * margin, bar_height + len(lines) * height + 3 * height // 2)
    picture = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(picture)

    def write(line: Row, x: int, y: int) -> None:
        for number, cell in enumerate(line):
            if not cell.data:
                continue
            num_cells = 2 if number + 1 < len(line) and not line[number + 1].data else 1
            left = x + number * width
            foreground, background = colours_of(cell)
            if background != BACKGROUND:
                pen.rectangle((left, y, left + num_cells * width - 1, y + height - 1), fill=background)
            picture.paste(foreground, (left, y), typeface.tile(cell.data, num_cells, bold=cell.bold))

    pen.rectangle((0, 0, size[0], bar_height), fill=TITLE_BAR)
    radius = height // 5
    for number, fill in enumerate(BUTTONS):
        x, y = margin + radius + 3 * number * radius, bar_height // 2
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    # pyte gives each character its cells here, too.
    heading = Screen()
    pyte.Stream(heading).feed(f"\x1b[2m{title}\x1b[?25l")
    heading_row = heading.rows()[0]
    write(heading_row[:-1], (size[0] - (len(heading_row) - 1) * width) // 2, (bar_height - height) // 2)
    for number, line in enumerate(lines):
        write(line, margin, bar_height + height // 2 + number * height)
    return with_round_corners(picture, radius=height // 3)


def with_round_corners(picture: Image.Image, radius: int) -> Image.Image:
    # Four times as large and then reduced, which smooths the curve.
    mask = Image.new("L", (4 * picture.width, 4 * picture.height))
    edge = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(edge, 4 * radius, fill=255)
    ImageDraw.Draw(picture).rounded_rectangle(
        (0, 0, picture.width - 1, picture.height - 1), radius, outline=EDGE, width=2
    )
    picture.putalpha(mask.resize(picture.size, Image.Resampling.LANCZOS))
    return picture


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture as a small PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    colours = picture.quantize(PALETTE_SIZE, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    colours.save(file, optimize=True)
