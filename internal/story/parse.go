package story

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Error is a mistake in a story.
type Error struct {
	Path string
	Line int
	Text string // what is wrong and what is expected
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Text) }

// rootName is the caller who is there without being introduced.
const rootName = "root"

// Load reads the stories of a directory, sorted by name.
func Load(dir string) ([]*Story, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: no stories", dir)
	}
	var all []*Story
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		s, err := Parse(path, string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Parse reads a story. The error is an *Error.
func Parse(path, text string) (*Story, error) {
	s := &Story{Path: path, Name: strings.TrimSuffix(filepath.Base(path), ".txt"), Places: Both, Nodes: 1}
	p := &parser{story: s, callers: map[string]bool{rootName: true}, jobs: map[string]bool{}}
	lines := strings.Split(strings.TrimRight(text, " \n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ") // a line of spaces is empty, too
	}
	if err := p.header(lines); err != nil {
		return nil, err
	}
	for at := 0; at < len(lines); {
		end := at
		for end < len(lines) && lines[end] != "" {
			end++
		}
		if end == at {
			return nil, p.fail(at, "one empty line stands between two blocks, not more")
		}
		if err := p.block(lines, at, end); err != nil {
			return nil, err
		}
		at = end + 1
	}
	return s, nil
}

type parser struct {
	story   *Story
	callers map[string]bool
	jobs    map[string]bool
}

// fail makes an Error for a line, counted from 0.
func (p *parser) fail(line int, format string, a ...any) error {
	return &Error{Path: p.story.Path, Line: line + 1, Text: fmt.Sprintf(format, a...)}
}

// field is a part of the header: "Nodes", "3, fenced".
type field struct {
	line        int
	name, value string
}

var fieldLine = regexp.MustCompile(`^(Guards|Shows|Nodes:|Only embedded:|Only nodes:|Kernel:|Last:)\s+(\S.*)$`)

// fields reads the comment that a file begins with. A line that begins no field
// goes on with the one before it.
func fields(lines []string) (all []field) {
	for i, line := range lines {
		text, ok := strings.CutPrefix(line, "#")
		if !ok {
			break
		}
		text = strings.TrimSpace(text)
		if m := fieldLine.FindStringSubmatch(text); m != nil {
			all = append(all, field{i, strings.TrimSuffix(m[1], ":"), m[2]})
		} else if len(all) > 0 {
			all[len(all)-1].value += " " + text
		}
	}
	return all
}

func (p *parser) header(lines []string) error {
	s := p.story
	all := fields(lines)
	if len(all) == 0 || all[0].line != 0 || all[0].name != "Guards" && all[0].name != "Shows" {
		return p.fail(0, `the first line says what the story is for: "# Guards ..." or "# Shows ..."`)
	}
	s.Guards = all[0].value
	for _, f := range all[1:] {
		switch f.name {
		case "Nodes":
			count, rest, _ := strings.Cut(f.value, ",")
			n, err := strconv.Atoi(count)
			if err != nil || n < 1 || n > 9 || rest != "" && strings.TrimSpace(rest) != "fenced" {
				return p.fail(f.line,
					`%q: expected a number of nodes, 1 to 9, as in "# Nodes: 2" or "# Nodes: 3, fenced"`, f.value)
			}
			s.Nodes, s.Fenced = n, rest != ""
		case "Only embedded", "Only nodes":
			if s.Places != Both {
				return p.fail(f.line, "a story that can happen nowhere is none: leave one of the two lines \"Only\" out")
			}
			s.Places, s.Why = Embedded, f.value
			if f.name == "Only nodes" {
				s.Places = Nodes
			}
		case "Kernel":
			s.Kernel = f.value
		case "Last":
			s.Last = true
		default:
			return p.fail(f.line, "%s has been said already", f.name)
		}
	}
	return nil
}

func (p *parser) block(lines []string, from, to int) error {
	b := block{}
	for i := from; i < to; i++ {
		line := lines[i]
		switch {
		case b.answered:
			b.want = append(b.want, line)
		case line == "----":
			b.answered = true
			if len(b.commands) == 0 {
				return p.fail(i, "no command stands before this line")
			}
		default:
			b.source = append(b.source, line)
			if strings.HasPrefix(line, "#") {
				continue
			}
			c, err := p.command(i, line)
			if err != nil {
				return err
			}
			b.commands = append(b.commands, c)
		}
	}
	if len(b.commands) > 0 && !b.answered {
		return p.fail(to-1, `"----" is missing after this line, and what the commands print`)
	}
	p.story.blocks = append(p.story.blocks, b)
	return nil
}

var (
	jobName    = regexp.MustCompile(`^&[a-z][a-z0-9-]*$`)
	callerName = regexp.MustCompile(`^[a-z][a-z0-9]*$`)
	subject    = regexp.MustCompile(`^(?:([a-z][a-z0-9]*)@)?n([0-9])$`)
)

// command reads one line: [&JOB] [until /PATTERN/] [[CALLER@]nN] VERB ...
func (p *parser) command(at int, line string) (Command, error) {
	c := Command{Line: at + 1, Text: line, Caller: rootName, Options: map[string]string{}}
	rest := strings.TrimSpace(line)
	if strings.HasPrefix(rest, "&") {
		var job string
		job, rest, _ = strings.Cut(rest, " ")
		if !jobName.MatchString(job) {
			return c, p.fail(at, `%q: expected the name of a job, as in "&b n2 acquire ..."`, job)
		}
		c.Job = job[1:]
		p.jobs[c.Job] = true
	}
	rest, err := p.until(at, &c, rest)
	if err != nil {
		return c, err
	}
	words, err := split(rest)
	if err != nil {
		return c, p.fail(at, "%v", err)
	}
	if err := p.words(at, &c, rest, words); err != nil {
		return c, err
	}
	return c, p.check(at, &c)
}

// words reads what follows the job and the pattern: [[CALLER@]nN] VERB, then arguments and
// options in any order. rest is the text of the words.
func (p *parser) words(at int, c *Command, rest string, words []word) error {
	if len(words) == 0 {
		return p.fail(at, "expected a command")
	}
	if m := subject.FindStringSubmatch(words[0].plain()); m != nil {
		c.Node = int(m[2][0] - '0')
		if m[1] != "" {
			c.Caller = m[1]
		}
		words = words[1:]
	}
	if len(words) == 0 {
		return p.fail(at, "expected a verb after %q", rest)
	}
	c.Verb = words[0].plain()
	for _, w := range words[1:] {
		switch _, twice := c.Options[w.option]; {
		case w.option == "":
			c.Args = append(c.Args, w.text)
		case twice:
			return p.fail(at, "the option %s stands there twice", w.option)
		default:
			c.Options[w.option] = w.text
		}
	}
	return nil
}

// until reads "until /PATTERN/" and returns what follows. A pattern ends at a
// slash before a blank.
func (p *parser) until(at int, c *Command, text string) (string, error) {
	rest, ok := strings.CutPrefix(text, "until ")
	if !ok {
		if rest, c.Not = strings.CutPrefix(text, "until-not "); !c.Not {
			return text, nil
		}
	}
	if c.Job != "" {
		return "", p.fail(at, "a job can't be repeated until something is so")
	}
	pattern, command, ok := strings.Cut(strings.TrimPrefix(rest, "/"), "/ ")
	if !ok || !strings.HasPrefix(rest, "/") {
		return "", p.fail(at, `expected a pattern and a command, as in "until /waiting node 2/ n1 inspect vms/disk1"`)
	}
	expr, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return "", p.fail(at, "the pattern: %v", err)
	}
	c.Until = expr
	return strings.TrimSpace(command), nil
}

// check looks at what a command means.
func (p *parser) check(at int, c *Command) error {
	v := verbOf(c.Verb)
	if v == nil {
		return p.fail(at, "there is no command %q; those that there are stand in internal/story/doc.go", c.Verb)
	}
	if wrong := v.check(c); wrong != "" {
		return p.fail(at, "%s", wrong)
	}
	s := p.story
	if missing := s.Places &^ v.places; missing != 0 {
		only := map[Place]string{Embedded: "# Only embedded: WHY", Nodes: "# Only nodes: WHY"}[v.places]
		return p.fail(at, "%s is not there on %s; if the story needs it, its header says so: %q", v.name, missing, only)
	}
	if c.Node > s.Nodes {
		return p.fail(at, `there is no node %d; the header says how many there are: "# Nodes: %d"`, c.Node, c.Node)
	}
	switch {
	case v.name == "caller" && !callerName.MatchString(c.Args[0]):
		return p.fail(at, "%q is no name for a caller: expected lower case letters and digits", c.Args[0])
	case v.name == "caller":
		p.callers[c.Args[0]] = true
	case !p.callers[c.Caller]:
		return p.fail(at, `nobody is called %s; introduce them: "caller %s uid=1000"`, c.Caller, c.Caller)
	}
	if strings.HasPrefix(v.usage, "JOB") && !p.jobs[c.Args[0]] {
		return p.fail(at, `no job is called %s; "&%s" before a command begins one`, c.Args[0], c.Args[0])
	}
	return p.checkValues(at, c)
}

// checkValues looks at values that have a form of their own.
func (p *parser) checkValues(at int, c *Command) error {
	for _, name := range []string{"uid", "pid", "start", "locks-per-uid", "waiting-per-uid"} {
		if text, ok := c.Options[name]; ok {
			if _, err := strconv.ParseUint(text, 10, 32); err != nil {
				return p.fail(at, "%s=%s: expected a number", name, text)
			}
		}
	}
	for what, text := range map[string]string{"wait=": c.Options["wait"], "within=": c.Options["within"],
		c.Verb + " ": durationArg(c)} {
		if _, err := parseWait(text); err != nil && text != "" {
			return p.fail(at, "%s%s: expected a duration, as in 1s or 300ms", what, text)
		}
	}
	return nil
}

func durationArg(c *Command) string {
	if c.Verb == "sleep" || c.Verb == "set-clock" {
		return c.Arg(0)
	}
	return ""
}

// word is one word of a command: TEXT or OPTION=TEXT.
type word struct {
	option, text string
	quoted       bool
}

// plain is the text of a word that can't be an option or quoted.
func (w word) plain() string {
	if w.option != "" || w.quoted {
		return ""
	}
	return w.text
}

var optionName = regexp.MustCompile(`^([a-z-]+)=`)

// split divides a line into words. A text with blanks is quoted as in Go.
func split(line string) (words []word, err error) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		w := word{}
		if m := optionName.FindStringSubmatch(line); m != nil {
			w.option, line = m[1], line[len(m[0]):]
		}
		if strings.HasPrefix(line, `"`) {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("%s: the quotation has no end", line)
			}
			w.quoted = true
			w.text, _ = strconv.Unquote(quoted)
			line = line[len(quoted):]
			if line != "" && line[0] != ' ' {
				return nil, fmt.Errorf("%s: a blank is expected after a quotation", line)
			}
		} else {
			w.text, line, _ = strings.Cut(line, " ")
		}
		words = append(words, w)
	}
	return words, nil
}
