defmodule Shim.Json do
  @moduledoc """
  JSON for the shim, where neither Jason nor JSON of Elixir 1.18 is at hand: objects are maps with string keys, null is
  nil, integers are exact. `encode!` takes atoms as keys and as strings too, and raises at what JSON has not.
  """

  @doc "One value, with blanks around it."
  def decode!(text) do
    case value(skip(text)) do
      {value, rest} ->
        if skip(rest) == "", do: value, else: raise(ArgumentError, "not JSON: more than a value")
    end
  end

  defp skip(<<blank, rest::binary>>) when blank in ~c" \t\n\r", do: skip(rest)
  defp skip(rest), do: rest

  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("\"" <> rest), do: string(rest, rest, 0, [])
  defp value("[" <> rest), do: array(skip(rest), [])
  defp value("{" <> rest), do: object(skip(rest), %{})

  defp value(<<first, _::binary>> = text) when first in ?0..?9 or first == ?-,
    do: number(text, text, 0, false)

  defp value(_), do: raise(ArgumentError, "not JSON")

  defp array("]" <> rest, []), do: {[], rest}

  defp array(text, items) do
    {item, rest} = value(text)

    case skip(rest) do
      "," <> rest -> array(skip(rest), [item | items])
      "]" <> rest -> {Enum.reverse([item | items]), rest}
      _ -> raise(ArgumentError, "not JSON: an array without an end")
    end
  end

  defp object("}" <> rest, fields) when fields == %{}, do: {fields, rest}

  defp object("\"" <> text, fields) do
    {name, rest} = string(text, text, 0, [])
    ":" <> rest = skip(rest)
    {value, rest} = value(skip(rest))

    case skip(rest) do
      "," <> rest -> object(skip(rest), Map.put(fields, name, value))
      "}" <> rest -> {Map.put(fields, name, value), rest}
      _ -> raise(ArgumentError, "not JSON: an object without an end")
    end
  end

  # `text` from where nothing was taken yet, `length` bytes of it have been seen.
  defp number(<<digit, rest::binary>>, text, length, float)
       when digit in ?0..?9 or digit in ~c"+-.eE",
       do: number(rest, text, length + 1, float or digit in ~c".eE")

  defp number(rest, text, length, false),
    do: {text |> binary_part(0, length) |> String.to_integer(), rest}

  defp number(rest, text, length, true) do
    [mantissa | exponent] = text |> binary_part(0, length) |> String.split(["e", "E"])
    mantissa = if String.contains?(mantissa, "."), do: mantissa, else: mantissa <> ".0"
    {String.to_float(Enum.join([mantissa | exponent], "e")), rest}
  end

  defp string("\"" <> rest, text, length, parts) do
    last = binary_part(text, 0, length)
    {if(parts == [], do: :binary.copy(last), else: IO.iodata_to_binary([parts, last])), rest}
  end

  defp string("\\" <> rest, text, length, parts) do
    {character, rest} = escape(rest)
    string(rest, rest, 0, [parts, binary_part(text, 0, length), character])
  end

  defp string(<<_, rest::binary>>, text, length, parts), do: string(rest, text, length + 1, parts)

  defp escape(<<"u", high::binary-4, "\\u", low::binary-4, rest::binary>>)
       when binary_part(high, 0, 2) in ~w[d8 d9 da db D8 D9 DA DB dA dB Da Db],
       do:
         {<<String.to_integer(high, 16)::16, String.to_integer(low, 16)::16>> |> from_utf16(),
          rest}

  defp escape(<<"u", code::binary-4, rest::binary>>),
    do: {<<String.to_integer(code, 16)::utf8>>, rest}

  for {letter, character} <-
        ~w[b f n r t " \\ /] |> Enum.zip(["\b", "\f", "\n", "\r", "\t", "\"", "\\", "/"]) do
    defp escape(unquote(letter) <> rest), do: {unquote(character), rest}
  end

  defp from_utf16(pair), do: :unicode.characters_to_binary(pair, {:utf16, :big})

  @doc "The value's text on one line, as iodata."
  def encode!(nil), do: "null"
  def encode!(value) when is_boolean(value), do: Atom.to_string(value)
  def encode!(value) when is_atom(value), do: encode!(Atom.to_string(value))
  def encode!(value) when is_integer(value), do: Integer.to_string(value)
  def encode!(value) when is_float(value), do: Float.to_string(value)

  def encode!(value) when is_list(value),
    do: ["[", value |> Enum.map(&encode!/1) |> Enum.intersperse(","), "]"]

  def encode!(value) when is_binary(value) do
    if not String.valid?(value), do: raise(ArgumentError, "not JSON: a string that is not UTF-8")
    ["\"", quoted(value, value, 0, []), "\""]
  end

  def encode!(value) when is_map(value) and not is_struct(value) do
    fields = for {name, value} <- value, do: [encode!(to_string(name)), ":", encode!(value)]
    ["{", Enum.intersperse(fields, ","), "}"]
  end

  def encode!(value), do: raise(ArgumentError, "not JSON: #{inspect(value)}")

  defp quoted(<<byte, rest::binary>>, text, length, parts) when byte < 0x20 or byte in ~c"\"\\" do
    code = if byte < 0x20, do: ["\\u00", Base.encode16(<<byte>>)], else: ["\\", byte]
    quoted(rest, rest, 0, [parts, binary_part(text, 0, length), code])
  end

  defp quoted(<<_, rest::binary>>, text, length, parts), do: quoted(rest, text, length + 1, parts)
  defp quoted("", text, length, parts), do: [parts, binary_part(text, 0, length)]
end
