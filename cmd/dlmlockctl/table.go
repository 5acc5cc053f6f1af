package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cell is one field of a table.
type cell struct {
	text   string
	colour colour
}

func text(s string) cell { return cell{visible(s), plain} }

func number[T ~uint32 | ~int32 | ~uint64](n T) cell { return cell{fmt.Sprint(n), plain} }

// table is rows of aligned columns below a heading.
type table struct {
	heading  []string
	elastic  []string // headings of the columns that may be shortened
	noLegend bool     // without the heading
	rows     [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// write writes the table. On a terminal it fits the lines into the width if it has
// elastic columns.
func (t *table) write(w io.Writer) { t.print(w, terminalWidth(w)) }

// print aligns the columns, with two blanks between them. An empty cell is shown
// as "-", so that each column keeps its number for awk(1). Width 0 is unlimited.
func (t *table) print(w io.Writer, limit int) {
	width := t.widths()
	t.shrink(width, limit)
	rows := t.rows
	if !t.noLegend {
		head := make([]cell, len(t.heading))
		for i, h := range t.heading {
			head[i] = cell{h, bold}
		}
		rows = append([][]cell{head}, rows...)
	}
	paint := coloured(w)
	var b strings.Builder
	for _, row := range rows {
		for i, c := range row {
			c.text = shortened(c.text, width[i])
			pad := 0
			if i < len(row)-1 {
				pad = width[i] + gap - cellsOf(c.text)
			}
			if paint && c.colour != plain {
				c.text = string(c.colour) + c.text + "\x1b[0m"
			}
			b.WriteString(c.text + strings.Repeat(" ", pad))
		}
		b.WriteByte('\n')
	}
	_, _ = io.WriteString(w, b.String()) // output remembers an error
}

// gap is the number of blanks between two columns.
const gap = 2

// widths fills empty cells and returns how wide each column is.
func (t *table) widths() []int {
	width := make([]int, len(t.heading))
	if !t.noLegend {
		for i, h := range t.heading {
			width[i] = cellsOf(h)
		}
	}
	for _, row := range t.rows {
		for i := range row {
			if row[i].text == "" {
				row[i].text = "-"
			}
			width[i] = max(width[i], cellsOf(row[i].text))
		}
	}
	return width
}

// leastWidth is what is left of an elastic column at least.
const leastWidth = 6

// shrink makes the widest elastic columns narrower until a line fits, or until
// none of them can give more. The first one, which names the row, keeps twice as
// much as the others.
func (t *table) shrink(width []int, limit int) {
	total := gap * (len(width) - 1)
	for _, w := range width {
		total += w
	}
	for ; limit > 0 && total > limit; total-- {
		widest, most := -1, 0
		for i, h := range t.heading {
			if !t.isElastic(h) || width[i] <= max(leastWidth, len(h)) {
				continue
			}
			share := 2 * width[i]
			if i == 0 {
				share = width[i]
			}
			if share >= most {
				widest, most = i, share
			}
		}
		if widest < 0 {
			return
		}
		width[widest]--
	}
}

func (t *table) isElastic(heading string) bool {
	for _, e := range t.elastic {
		if e == heading {
			return true
		}
	}
	return false
}

// terminalWidth is the number of columns of a terminal: COLUMNS, or what the
// kernel knows; 0 if the stream is no terminal or nobody knows.
func terminalWidth(stream any) int {
	if !isTerminal(stream) {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if o, ok := stream.(*output); ok {
		stream = o.to
	}
	size, err := unix.IoctlGetWinsize(int(stream.(*os.File).Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
