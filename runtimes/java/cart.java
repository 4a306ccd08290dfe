// A shopping cart. The README has the lines that build and run it.

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

class Cart {
    static final int MAX_PER_ITEM = 100; // more than a household buys: the shop says "out of stock" before it is

    record Item(String sku, long qty) {}

    static List<Item> items(Shim.Context ctx) {
        List<Item> items = new ArrayList<>();
        if (!ctx.exists()) return items;
        for (JsonElement each : ctx.state().getAsJsonObject().getAsJsonArray("items")) {
            JsonObject item = each.getAsJsonObject();
            items.add(new Item(item.get("sku").getAsString(), item.get("qty").getAsLong()));
        }
        return items;
    }

    static Object put(Shim.Context ctx, List<Item> items) {
        ctx.put(cart(items));
        return Map.of("items", items.size());
    }

    static Object cart(List<Item> items) {
        return Map.of("items", items.stream().map(item -> Map.of("sku", item.sku, "qty", item.qty)).toList());
    }

    static Object add(Shim.Context ctx, JsonElement message) {
        String sku = sku(message);
        long qty = qty(message.getAsJsonObject().get("qty"));
        List<Item> items = items(ctx);
        int index = 0;
        while (index < items.size() && !items.get(index).sku.equals(sku)) index++;
        if (index == items.size()) items.add(new Item(sku, 0));
        long held = items.get(index).qty;
        if (qty > MAX_PER_ITEM - held) {
            throw new Shim.Refused(409, "out_of_stock", "not enough " + sku + " left")
                .details(Map.of("sku", sku, "left", MAX_PER_ITEM - held));
        }
        items.set(index, new Item(sku, held + qty));
        return put(ctx, items);
    }

    static Object remove(Shim.Context ctx, JsonElement message) {
        String sku = sku(message);
        List<Item> items = items(ctx);
        if (!items.removeIf(item -> item.sku.equals(sku))) {
            throw new Shim.Refused(404, "not_in_cart", "there is no " + sku + " in the cart");
        }
        return put(ctx, items);
    }

    static Object show(Shim.Context ctx, JsonElement message) {
        return cart(items(ctx));
    }

    static Object checkout(Shim.Context ctx, JsonElement message) {
        if (items(ctx).isEmpty()) throw new Shim.Refused(409, "cart_empty", "there is nothing to check out");
        JsonElement ordered = ctx.state().getAsJsonObject().get("items");
        ctx.delete();
        return Map.of("ordered", ordered);
    }

    static String sku(JsonElement message) {
        JsonElement sku = message instanceof JsonObject order ? order.get("sku") : null;
        if (sku == null || !sku.isJsonPrimitive() || !sku.getAsJsonPrimitive().isString() || sku.getAsString().isEmpty()) {
            throw new Shim.Refused(422, "bad_sku", "the message is {\"sku\": \"...\", \"qty\": 1}");
        }
        return sku.getAsString();
    }

    static long qty(JsonElement qty) {
        if (qty == null || qty.isJsonNull()) return 1;
        try {
            if (qty.getAsJsonPrimitive().isNumber() && Long.parseLong(qty.getAsString()) >= 1) return qty.getAsLong();
        } catch (IllegalStateException | NumberFormatException notOne) {
            // said below
        }
        throw new Shim.Refused(422, "bad_quantity", "qty is a whole number, at least 1");
    }

    public static void main(String[] args) {
        new Shim()
            .handler("add", Cart::add)
            .handler("remove", Cart::remove)
            .handler("show", Cart::show, Shim.DEFAULT, Shim.READS_ONLY)
            .handler("checkout", Cart::checkout)
            .serve();
    }
}
