// Package chart draws lines over two axes as an SVG picture that suits a light and a dark page.
//
// It owns the look of the plots in docs/scale.md. It does not know what the numbers mean.
//
// Concurrency: a Chart may be drawn by one goroutine at a time.
package chart

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Chart is a picture of several lines.
type Chart struct {
	Title string
	// Source says which of the numbers were measured and which were computed.
	Source string
	X, Y   Axis
	Lines  []Line
}

// Axis is the label and the range of an axis.
type Axis struct {
	Label string // with the unit
	Log   bool   // powers of ten; the values must be positive
	Ticks []float64
}

// Line is a series of points, in the order in which they are connected.
type Line struct {
	Name   string
	Dashed bool
	// Paired gives the line the colour of the line before it.
	Paired bool
	// Bare leaves out the marks of the points, for a line that was computed.
	Bare   bool
	Points []Point
}

// Point is one value.
type Point struct{ X, Y float64 }

const (
	width, height            = 720, 400
	left, right, top, bottom = 76, 200, 52, 78
)

// colours suit both backgrounds.
var colours = []string{"#2f7ed8", "#d9730d", "#1a8f4c", "#a259c4", "#8a6d00", "#c7345c", "#0b8a8f", "#7a5c3e"}

// SVG returns the picture. Equal charts give equal pictures.
func (c Chart) SVG() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="title desc"
     font-family="system-ui, sans-serif" font-size="13">
  <title id="title">%s</title>
  <desc id="desc">%s</desc>
  <style>
    text { fill: #1f2328; }
    .small { font-size: 11px; fill: #57606a; }
    .grid { stroke: #d8dee4; stroke-width: 1; }
    .line { fill: none; stroke-width: 2; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .small { fill: #9198a1; }
      .grid { stroke: #3d444d; }
    }
  </style>
`, width, height, html.EscapeString(c.Title), html.EscapeString(c.description()))
	text(&b, left, 22, "start", "", `font-weight="600"`, c.Title)
	text(&b, left, 40, "start", "small", "", c.Source)
	c.axes(&b)
	next := 0
	for i, l := range c.Lines {
		if !l.Paired {
			next++
		}
		colour := colours[(next+len(colours)-1)%len(colours)]
		c.line(&b, l, colour)
		c.legend(&b, i, l, colour)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// Outside returns the points that are not between the first and the last tick of both axes.
func (c Chart) Outside() []Point {
	var all []Point
	for _, l := range c.Lines {
		for _, p := range l.Points {
			if x, y := c.X.part(p.X), c.Y.part(p.Y); !(x >= 0 && x <= 1 && y >= 0 && y <= 1) {
				all = append(all, p)
			}
		}
	}
	return all
}

// description has the numbers in words, for those who can't see the picture.
func (c Chart) description() string {
	var all []string
	for _, l := range c.Lines {
		var points []string
		for _, p := range l.Points {
			points = append(points, number(p.X)+": "+number(p.Y))
		}
		all = append(all, l.Name+": "+strings.Join(points, ", "))
	}
	return c.Source + ". " + c.Y.Label + " by " + c.X.Label + ". " + strings.Join(all, "; ") + "."
}

func (c Chart) axes(b *strings.Builder) {
	const x0, x1, y0, y1 = left, width - right, height - bottom, top
	for _, t := range c.X.Ticks {
		x := c.x(t)
		fmt.Fprintf(b, "  <path class=\"grid\" d=\"M%.1f %d V%d\"/>\n", x, y0, y1)
		text(b, x, y0+18, "middle", "small", "", number(t))
	}
	for _, t := range c.Y.Ticks {
		y := c.y(t)
		fmt.Fprintf(b, "  <path class=\"grid\" d=\"M%d %.1f H%d\"/>\n", x0, y, x1)
		text(b, x0-6, y+4, "end", "small", "", number(t))
	}
	text(b, (x0+x1)/2, y0+42, "middle", "", "", c.X.Label)
	fmt.Fprintf(b, "  <text text-anchor=\"middle\" transform=\"translate(18 %d) rotate(-90)\">%s</text>\n",
		(y0+y1)/2, html.EscapeString(c.Y.Label))
}

func (c Chart) line(b *strings.Builder, l Line, colour string) {
	var path strings.Builder
	for i, p := range l.Points {
		path.WriteString(map[bool]string{true: "M", false: " L"}[i == 0])
		fmt.Fprintf(&path, "%.1f %.1f", c.x(p.X), c.y(p.Y))
	}
	fmt.Fprintf(b, "  <path class=\"line\" stroke=\"%s\"%s d=\"%s\"/>\n", colour, dashes(l), path.String())
	if l.Bare {
		return
	}
	for _, p := range l.Points {
		fmt.Fprintf(b, "  <circle fill=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", colour, c.x(p.X), c.y(p.Y))
	}
}

func (c Chart) legend(b *strings.Builder, i int, l Line, colour string) {
	x, y := width-right+14, top+10+i*min(34, (height-top-10)/len(c.Lines))
	fmt.Fprintf(b, "  <path class=\"line\" stroke=\"%s\"%s d=\"M%d %d h24\"/>\n", colour, dashes(l), x, y)
	first, second, _ := strings.Cut(l.Name, "\n")
	text(b, float64(x+30), float64(y+4), "start", "", "", first)
	text(b, float64(x+30), float64(y+18), "start", "small", "", second)
}

func dashes(l Line) string {
	if l.Dashed {
		return ` stroke-dasharray="6 4"`
	}
	return ""
}

func text(b *strings.Builder, x, y float64, anchor, class, more, s string) {
	if s == "" {
		return
	}
	fmt.Fprintf(b, "  <text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"", x, y, anchor)
	if class != "" {
		fmt.Fprintf(b, " class=\"%s\"", class)
	}
	if more != "" {
		b.WriteString(" " + more)
	}
	fmt.Fprintf(b, ">%s</text>\n", html.EscapeString(s))
}

func (c Chart) x(v float64) float64 {
	return left + c.X.part(v)*(width-right-left)
}

func (c Chart) y(v float64) float64 {
	return height - bottom - c.Y.part(v)*(height-bottom-top)
}

// part is where a value is between the first tick and the last one.
func (a Axis) part(v float64) float64 {
	low, high := a.Ticks[0], a.Ticks[len(a.Ticks)-1]
	if a.Log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(v)
	}
	return (v - low) / (high - low)
}

// number writes a value as a person does: 1,000 and 0.5.
func number(v float64) string {
	s := strconv.FormatFloat(v, 'g', 4, 64)
	if v >= 1000 && v == math.Trunc(v) || v >= 10_000 {
		s = strconv.FormatFloat(math.Round(v), 'f', 0, 64)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
	}
	return s
}
