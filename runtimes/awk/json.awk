# JSON as text, for shim.awk: values stay as they are written, and are cut into their parts when asked for.
#
# json_type(J)           object array string number true false null; "" if it is not JSON at all
# json_get(J, NAME)      the field of an object, as JSON; "" when it has none
# json_has(J, NAME)      has it that field?
# json_fields(J, PARTS, NAMES)  how many fields: their names in NAMES[1...], their JSON in PARTS[name]
# json_list(J, PARTS)    how many elements, their JSON in PARTS[1...]
# json_set(J, NAME, V)   the object with this field as it is now
# json_text(J)           what a string says, and a number as it is
# json_string(TEXT)      a string that says this
# json_object(NAME, J, NAME, J, ...)  up to eight fields; one whose JSON is "" is left out

BEGIN { CONVFMT = "%.17g" } # no digit of a double is lost

function json_type(j) {
  if (!json_ok(j)) return ""
  sub(/^[ \t\r\n]+/, "", j)
  if (j ~ /^{/) return "object"
  if (j ~ /^\[/) return "array"
  if (j ~ /^"/) return "string"
  return j ~ /^[-0-9]/ ? "number" : substr(j, 1, 4) == "fals" ? "false" : substr(j, 1, 4)
}

# Cuts a text into what stands between strings, seps[0...], and what stands in them, strings[1...]; how many, -1 if one
# has no end. At the quotes, for gawk's regular expressions take their time with long strings.
function json_strings(j, strings, seps,    pieces, many, at, count, inside) {
  delete strings
  delete seps
  many = split(j, pieces, "\"")
  seps[0] = pieces[1]
  for (at = 2; at <= many; at++) {
    inside = pieces[at]
    while (json_escapes_next(inside)) {
      if (++at > many) return -1
      inside = inside "\"" pieces[at]
    }
    if (++at > many) return -1
    strings[++count] = inside
    seps[count] = pieces[at]
  }
  return count + 0
}

function json_escapes_next(text,    at) { # does it end with an odd number of backslashes?
  for (at = length(text); at > 0 && substr(text, at, 1) == "\\"; at--);
  return (length(text) - at) % 2
}

# Strings become ", other words v, and then the innermost brackets v, until one is left.
function json_ok(j,    strings, seps, many, at, inside) {
  many = json_strings(j, strings, seps)
  if (many < 0) return 0
  j = seps[0]
  for (at = 1; at <= many; at++) {
    inside = strings[at]
    if (inside ~ /[\x00-\x1f]/) return 0
    if (index(inside, "\\")) {
      gsub(/\\(["\\\/bfnrt]|u[0-9a-fA-F]{4})/, "", inside)
      if (index(inside, "\\")) return 0
    }
    j = j "\"" seps[at]
  }
  if (j ~ /[^-+0-9.eE\]\[{},:" \t\r\ntruefalsn]/) return 0
  gsub(/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null/, "v", j)
  gsub(/[ \t\r\n]+/, "", j)
  while (gsub(/\[\]|\[[v"](,[v"])*\]|{}|{":[v"](,":[v"])*}/, "v", j));
  return j ~ /^[v"]$/
}

# The parts of an object or array: in `parts` by number, their names in `names`.
function json_cut(j, parts, names,    strings, seps, many, at, sep, char, depth, part, count, tokens, marks, marked, k) {
  delete parts
  delete names
  many = json_strings(j, strings, seps)
  depth = count = 0
  for (at = 0; at <= many; at++) {
    if (at) part = part "\"" strings[at] "\""
    marked = split(seps[at], tokens, /[\]\[{},:]/, marks)
    for (k = 1; k < marked; k++) {
      char = marks[k]
      part = part tokens[k]
      if (depth == 1 && char == ":") { names[count + 1] = json_text(part); part = ""; continue }
      if (depth == 1 && char ~ /[,\]}]/ && part ~ /[^ \t\r\n]/) { parts[++count] = json_trim(part); part = "" }
      depth += char ~ /[\[{]/ ? 1 : char ~ /[\]}]/ ? -1 : 0
      if (depth > 1 || depth == 1 && char ~ /[\]}]/) part = part char
    }
    if (marked) part = part tokens[marked]
  }
  return count
}

function json_trim(j) {
  if (j ~ /^[ \t\r\n]/) sub(/^[ \t\r\n]+/, "", j)
  if (substr(j, length(j)) ~ /[ \t\r\n]/) sub(/[ \t\r\n]+$/, "", j)
  return j
}

function json_fields(j, parts, names,    values, count, at) {
  count = json_cut(j, values, names)
  delete parts
  for (at = 1; at <= count; at++) parts[names[at]] = values[at]
  return count
}

function json_list(j, parts,    names) { return json_cut(j, parts, names) }
function json_has(j, name,    parts, names) { json_fields(j, parts, names); return name in parts }
function json_get(j, name,    parts, names) { json_fields(j, parts, names); return name in parts ? parts[name] : "" }

function json_set(j, name, value,    parts, names, count, at, out) {
  count = json_fields(j, parts, names)
  if (!(name in parts)) names[++count] = name
  parts[name] = value
  for (at = 1; at <= count; at++) out = out json_field(names[at], parts[names[at]])
  return "{" substr(out, 2) "}"
}

function json_text(j,    pieces, many, at, out, piece, char, code, low) {
  j = json_trim(j)
  if (substr(j, 1, 1) != "\"") return j
  j = substr(j, 2, length(j) - 2)
  if (!index(j, "\\")) return j
  many = split(j, pieces, /\\/)
  out = pieces[1]
  for (at = 2; at <= many; at++) {
    piece = pieces[at]
    char = substr(piece, 1, 1)
    if (char == "") out = out "\\" pieces[++at] # a backslash that escapes the next
    else if (char != "u") out = out (index("nrtbf", char) ? substr("\n\r\t\b\f", index("nrtbf", char), 1) : char) substr(piece, 2)
    else {
      code = strtonum("0x" substr(piece, 2, 4))
      if (code >= 55296 && code < 56320 && length(piece) == 5 && pieces[at + 1] ~ /^u[dD][c-fC-F]/) {
        low = strtonum("0x" substr(piece = pieces[++at], 2, 4))
        code = 65536 + (code - 55296) * 1024 + low - 56320
      }
      out = out json_utf8(code) substr(piece, 6)
    }
  }
  return out
}

function json_utf8(code) { # bytes: gawk runs with -b
  if (code < 128) return sprintf("%c", code)
  if (code < 2048) return sprintf("%c%c", 192 + code / 64, 128 + code % 64)
  if (code < 65536) return sprintf("%c%c%c", 224 + code / 4096, 128 + code / 64 % 64, 128 + code % 64)
  return sprintf("%c%c%c%c", 240 + code / 262144, 128 + code / 4096 % 64, 128 + code / 64 % 64, 128 + code % 64)
}

function json_string(text,    code) {
  gsub(/[\\"]/, "\\\\&", text)
  gsub(/\n/, "\\n", text)
  gsub(/\t/, "\\t", text)
  for (code = 0; text ~ /[\x00-\x1f]/; code++) gsub(sprintf("[%c]", code), sprintf("\\u%04x", code), text)
  return "\"" text "\""
}

function json_object(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p,    out) {
  out = json_field(a, b) json_field(c, d) json_field(e, f) json_field(g, h)
  out = out json_field(i, j) json_field(k, l) json_field(m, n) json_field(o, p)
  return "{" substr(out, 2) "}"
}

function json_field(name, j) { return j == "" ? "" : "," json_string(name) ":" j }
